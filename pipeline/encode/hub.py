"""The hub: one snapshot of an encoder's files, weights as safetensors only."""

from pathlib import Path

from pipeline.errors import EncoderError

__all__ = ["snapshot"]

WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/config.json")
UNWANTED = ("onnx/*", "openvino/*", "*/model*.safetensors", "*.fp16.safetensors", "*.fp32.safetensors")


def snapshot(hub_id: str) -> Path:
    """The local folder of a hub id's files, fetched if they are not there; offline, the copy of an earlier run.

    Raises `EncoderError` with a short cause and what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    remedy = "use --encoder minilm, which needs no network, or a local folder"
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)))
    except GatedRepoError:
        cause = "it is gated: accept its terms and log in to the hub"
    except (RepositoryNotFoundError, HFValidationError):
        cause = "the hub has no such model"
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        cause = "the hub cannot be reached and no copy of an earlier run is there"
    except Exception as error:
        # The client raises whatever its HTTP library raises; the type's name is all that is short in every case.
        cause = f"fetching it failed ({type(error).__name__})"
    raise EncoderError(
        f"encoder {hub_id!r}: expected an alias, a folder or a model on the hub, found that {cause}; {remedy}"
    )
