"""`fm-pose`: verbs plus paths, one module per verb. Knobs of a training live in its YAML.

A verb's module is imported when it is called, and what is heavy inside its commands."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from fm_pose_core import __version__
from fm_pose_core.errors import EngineError, InputError

VERBS = {
    "train": "train a network",
    "export": "make a bundle from a run",
    "evaluate": "score poses on a dataset",
    "model": "put a CAD model into a dataset",
    "relabel": "correct the labels of objects that stand still",
    "simulate": "write a dataset of simulated photographs of the demo's object, or of hands",
    "download": "get a dataset",
    "infer": "pose of one object in one image",
    "bundle": "look into a bundle",
    "engine": "check an inference engine with a bundle; build one of TensorRT",
}

# Packages that only one extra of pyproject.toml has, by the name that is imported.
EXTRAS = dict.fromkeys(("torch", "trimesh", "pyrender", "threadpoolctl", "skimage", "fast_simplification"), "train")
EXTRAS["onnx"] = "tensorrt"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned: 0, 2 for bad input (one line on stderr), 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = _parser(words[0] if words else "").parse_args(words)
    try:
        args.run(args)
        sys.stdout.flush()
    except (InputError, EngineError) as error:
        print(f"fm-pose: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "")
        if extra is None:
            raise
        print(f"fm-pose: this needs {error.name}: make environment, or pip install '.[{extra}]'", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has gone, as in `fm-pose … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at exit
        return 141
    except OSError as error:  # a full disk, a folder that is read-only: the text names the file
        print(f"fm-pose: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fm-pose: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser(called: str) -> argparse.ArgumentParser:
    """The options of the verb that is called, and the names of all."""
    parser = argparse.ArgumentParser(
        prog="fm-pose",
        description="6D object pose from one RGB image by feature mapping: train, evaluate, export, run.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in VERBS.items():
        if verb == called:
            import_module(f"fm_pose_core.cli.{verb}").add(verbs, text)
        else:
            verbs.add_parser(verb, help=text)
    return parser
