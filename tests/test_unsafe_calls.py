"""No call in the project runs what it reads, or hands a text to a shell; a new one fails here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Calls that run or unpickle what they are given, by dotted name.
UNSAFE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "marshal.load", "marshal.loads", "shelve.open", "dill.load", "dill.loads", "joblib.load", "cloudpickle.load",
    "cloudpickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput",
    "subprocess.getstatusoutput", "runpy.run_path", "importlib.util.spec_from_file_location", "tempfile.mktemp",
    "torch.hub.load", "np.load", "numpy.load",
}  # fmt: skip
#: By file: unsafe calls that are known, and why they are safe.
KNOWN = {
    "pipeline/encode/workers.py": {"pickle.load", "pickle.loads"},  # from our own child process, through a pipe
    "benchmarks/bench/baselines.py": {"importlib.util.spec_from_file_location"},  # an installed package's own file
}


def dotted(node):
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def unsafe_calls(source):
    """(line, name) of every call in Python source that is not known to be harmless."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        options = {option.arg: option.value for option in node.keywords}

        def says(option, value, options=options):
            return isinstance(options.get(option), ast.Constant) and options[option].value is value

        if name == "torch.load" and not says("weights_only", True):
            found.append((node.lineno, name))
        elif "shell" in options and not says("shell", False):
            found.append((node.lineno, f"{name}(shell)"))
        elif "trust_remote_code" in options and not says("trust_remote_code", False):
            found.append((node.lineno, f"{name}(trust_remote_code)"))
        elif name in ("np.load", "numpy.load") and says("allow_pickle", False):
            continue
        elif name in UNSAFE:
            found.append((node.lineno, name))
    return found


FILES = sorted(path for folder in ("pipeline", "docs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def test_no_new_unsafe_call():
    found = []
    for path in [*FILES, ROOT / "embed.py", ROOT / "fit_heads.py"]:
        name = path.relative_to(ROOT).as_posix()
        known = KNOWN.get(name, set())
        found += [f"{name}:{line}: {call}" for line, call in unsafe_calls(path.read_text()) if call not in known]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source", ["eval('1')", "pickle.loads(x)", "torch.load(f)", "torch.load(f, weights_only=False)",
               "np.load(f)", "subprocess.run('x', shell=True)", "subprocess.run('x', shell=flag)", "yaml.load(f)",
               "os.system('x')", "AutoModel.from_pretrained(x, trust_remote_code=True)"],
)  # fmt: skip
def test_the_check_sees(source):
    assert unsafe_calls(source)


@pytest.mark.parametrize(
    "source", ["torch.load(f, weights_only=True)", "subprocess.run(['x'])", "re.compile('x')",
               "np.load(f, allow_pickle=False)", "yaml.safe_load(f)", "model.eval()",
               "subprocess.run(['x'], shell=False)"],
)  # fmt: skip
def test_the_check_lets_pass(source):
    assert not unsafe_calls(source)
