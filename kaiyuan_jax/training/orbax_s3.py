"""Orbax writes to s3:// as it does to gs://, once it is told that TensorStore can.

Orbax 0.12 knows two places for arrays, local files and TensorStore's `gcs` driver; an `s3://` name it refuses as a relative path.
TensorStore's `s3` driver does the same as `gcs` does, so three functions in which Orbax asks "is this remote, and how is it opened" are
replaced here by ones that know both. All else that a store without renames needs Orbax has already, as commit files (`atomicity`).

The endpoint is that of AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, else Amazon's own; STORAGE_EMULATOR_HOST is that of a stand-in for gs://.
"""

import os
from urllib.parse import urlsplit

import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from kaiyuan_jax import storage

_open_gcs = gcs_utils.get_kvstore_for_gcs


def atomicity(folder) -> ocp.options.AtomicityOptions:
    """How a checkpoint in this folder becomes complete: by a rename, and in an object store by a marker that is put last."""
    mode = ocp.options.AtomicityMode
    return ocp.options.AtomicityOptions(mode=mode.COMMIT_FILE if storage.is_remote(folder) else mode.ATOMIC_RENAME)


def handler(folder) -> ocp.CompositeCheckpointHandler:
    """Orbax's handler of a checkpoint of several items in this folder."""
    return ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(atomicity_options=atomicity(folder)))


def _normal(path: str) -> str:
    scheme, separator, rest = path.rpartition("://")
    return scheme + separator + os.path.normpath(rest)


def _open(path: str) -> dict:
    """The TensorStore specification of a remote folder."""
    where = urlsplit(path)
    if where.scheme == "gs":
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", emulator)
        return _open_gcs(path)
    specification = {"driver": "s3", "bucket": where.netloc, "path": where.path.lstrip("/")}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        specification |= {
            "endpoint": endpoint,
            "aws_region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        }
    if "AWS_ACCESS_KEY_ID" in os.environ:  # asked alone, or the search for other credentials fills the terminal with what it did not find
        specification["aws_credentials"] = {"type": "environment"}
    return specification


# Both modules look these names up when they are called. An Orbax without them would be a different one: better to hear it here.
for _module, _name, _function in (
    (tensorstore_utils, "_use_gcs_driver", storage.is_remote),
    (tensorstore_utils, "_normalize_path", _normal),
    (gcs_utils, "get_kvstore_for_gcs", _open),
):
    if not hasattr(_module, _name):
        raise ImportError(f"orbax-checkpoint has no {_module.__name__}.{_name}; install the version of requirements.lock")
    setattr(_module, _name, _function)
