"""What tests share: fixtures that start real parts, programs that tests start, instruments that measure."""
