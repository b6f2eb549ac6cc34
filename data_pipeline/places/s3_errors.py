"""What an S3 request's failure means for the user: one line, which never repeats the words of a server or a library,
since those may hold an access key, a signature or a signed URL."""

from __future__ import annotations

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.places.place import Missing, Unavailable

with needs_extra("s3", "boto3", "s3://"):
    from botocore import exceptions as sdk
    from botocore.parsers import ResponseParserError


class Truncated(Exception):
    """A body ended early, without the library noticing."""

    def __init__(self, received: int, expected: int) -> None:
        super().__init__(f"{received} of {expected} bytes")


SDK_ERRORS = (sdk.BotoCoreError, sdk.ClientError, Truncated)

_BODY_CUT = (Truncated, sdk.IncompleteReadError, sdk.ResponseStreamingError)
_CHECKSUM = (sdk.FlexibleChecksumError, sdk.ChecksumError)
_NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
)
_PASSING = (*_BODY_CUT, *_CHECKSUM, sdk.HTTPClientError, sdk.ConnectionError, ResponseParserError)
_BAD_UPLOAD = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
_PASSING_STATUS = {429, 500, 502, 503, 504}
_PASSING_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
    # Two conditional writes met; the next try finds the winner's file, or none.
    "ConditionalRequestConflict",
    "OperationAborted",
    # What arrived is not what was sent: the next try is likely whole.
    *_BAD_UPLOAD,
}
_BAD_CREDENTIALS = {
    "SignatureDoesNotMatch": "the secret does not fit the access key",
    "InvalidAccessKeyId": "the access key is not known there",
    "ExpiredToken": "the session's token has expired",
    "ExpiredTokenException": "the session's token has expired",
    "InvalidToken": "the session's token is not valid",
    "TokenRefreshRequired": "the session's token must be renewed",
    "AuthorizationHeaderMalformed": "the region does not fit, or the credentials are malformed",
}


def code_of(error: Exception) -> str:
    """The server's error code, or the name of the library's error."""
    if isinstance(error, sdk.ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or str(_status(error))
    return type(error).__name__


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, sdk.ClientError):
        return _status(error) in _PASSING_STATUS or code_of(error) in _PASSING_CODES
    return isinstance(error, _PASSING)


def unavailable(error: Exception, doing: str, where: str, endpoint: str, attempts: int | None) -> Unavailable:
    """The line for a failure that may pass; ``attempts`` is None while there are tries left."""
    if isinstance(error, _BODY_CUT):
        what = "the answer's body was cut short"
    elif isinstance(error, _CHECKSUM):
        what = "what arrived does not fit its checksum"
    elif isinstance(error, sdk.ConnectTimeoutError | sdk.ReadTimeoutError):
        what = f"time-out ({type(error).__name__})"
    elif isinstance(error, sdk.SSLError):
        what = "no secure connection (SSLError)"
    elif code_of(error) in _BAD_UPLOAD:
        what = f"what arrived there does not fit its checksum ({code_of(error)})"
    elif isinstance(error, sdk.ClientError):
        what = f"the store answers {_status(error)} {code_of(error)}"
    elif _unresolved(error):
        what = "the endpoint's host name is not known"
    elif isinstance(error, ResponseParserError):
        what = "the answer can't be read (ResponseParserError)"
    else:
        what = f"no connection ({type(error).__name__})"
    line = f"cannot {doing} {where} at {endpoint}: {what}"
    if attempts is None:
        return Unavailable(line)
    return Unavailable(f"{line}, {attempts} attempts; check the endpoint and the network, or try again later")


def refusal(error: Exception, code: str, doing: str, where: str, bucket: str, endpoint: str) -> UserError:
    """The line for a failure that stays until somebody changes something."""
    line = f"cannot {doing} {where} at {endpoint}"
    status = _status(error)
    if isinstance(error, _NO_CREDENTIALS):
        return UserError(
            f"{line}: no credentials ({code}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if code == "NoSuchBucket":
        return UserError(f"{line}: there is no bucket {bucket}: create it or correct the URL")
    if status == 404:
        return Missing(f"{where} is missing at {endpoint}: restore it, or make what it is part of again")
    if code in _BAD_CREDENTIALS:
        return UserError(
            f"{line}: {_BAD_CREDENTIALS[code]} ({code}): check AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and AWS_REGION"
        )
    if code == "RequestTimeTooSkewed":
        return UserError(f"{line}: this machine's clock is wrong (RequestTimeTooSkewed): set it")
    if status in (401, 403):
        return UserError(f"{line}: access denied ({code}): these credentials need the right to {doing} there")
    if status in (301, 307):
        return UserError(f"{line}: the bucket lies in another region ({code}): set AWS_REGION")
    answer = f"{status} {code}" if status else code
    return UserError(f"{line}: refused ({answer}): check the URL and the store's settings")


def _status(error: Exception) -> int:
    if isinstance(error, sdk.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return 0


def _unresolved(error: Exception) -> bool:
    inner = error.kwargs.get("error") if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError) else None
    return "resolve" in str(inner).lower() or "name or service" in str(inner).lower()
