"""utils/setup.sh and path.sh, with a python and a package manager that only note what is asked."""

import os
import re
import shutil

import pytest

PYTHON = """#!/usr/bin/env bash
wait_if_slow() {
  if [[ -e $CALLS.slow.$1 ]]; then touch "$CALLS.started"; while [[ -e $CALLS.slow.$1 ]]; do sleep 0.02; done; fi
}
case "$1 $2" in
  "-m venv") echo venv >> "$CALLS"; wait_if_slow venv; mkdir -p "$3/bin"; cp "$0" "$3/bin/python3" ;;
  "-m pip")
    if [[ $3 == config ]]; then cat "$CALLS.pip" 2> /dev/null; exit 0; fi
    [[ $* != *--extra-index-url*/cpu* ]] || echo "torch for the CPU" >> "$CALLS"
    echo "pip ${*: -1}" >> "$CALLS"
    wait_if_slow pip
    [[ ! -e $CALLS.fail ]] || { echo "no such version" >&2; exit 1; } ;;
  "-c "*urlopen*) [[ ! -e $CALLS.deaf ]] ;;
  "-c "*version_info*) [[ ! -e $CALLS.old ]] ;;
  "-c "*ensurepip*) [[ ! -e $CALLS.bare ]] ;;
  "--version "*) echo "Python 3.11.0" ;;
esac
"""
APT = """#!/usr/bin/env bash
echo "apt-get $*" >> "$CALLS"
rm -f "$CALLS.bare"
for name; do
  case $name in
    sox | ffmpeg | npm | chromium) printf '#!/bin/sh\\n' > "$BIN/$name"; chmod +x "$BIN/$name" ;;
    python3) mv "$BIN/hidden" "$BIN/python3" ;;
  esac
done
"""


class Machine:
    """A root folder with the scripts, on a machine that has no more programs than it needs."""

    def __init__(self, shell):
        self.shell, self.root = shell, shell.folder / "my svq"
        for name in ["path.sh", "utils/setup.sh", "utils/parse_options.sh", "utils/requirements.txt",
                     "utils/requirements-test.txt", "utils/requirements-deploy.txt"]:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shell.root / name, self.root / name)
        for name in "bash readlink flock rm cp mv mkdir cat touch sleep env chmod dirname".split():
            (shell.bin / name).symlink_to(shutil.which(name))
        shell.write("fake bin/python3", PYTHON, executable=True)
        shell.write("fake bin/sox", "#!/bin/sh\n", executable=True)
        self.user(1000)
        self.log = shell.folder / "calls"
        self.log.write_text("")
        self.pip_settings("global.index-url='https://mirror.example/simple'")
        shell.env.update(PATH=str(shell.bin), BIN=str(shell.bin), CALLS=str(self.log))
        for name in ("PYTHONPATH", "SVQ_PYTHON", "SVQ_ROOT", "SVQ_TORCH"):
            shell.env.pop(name, None)

    def pip_settings(self, text):
        """What `pip config list` prints."""
        self.shell.write("calls.pip", text)

    def user(self, number):
        self.shell.write("fake bin/id", "#!/bin/sh\necho %d\n" % number, executable=True)

    def has_apt(self):
        self.shell.write("fake bin/apt-get", APT, executable=True)

    def lacks(self, *names):
        for name in names:
            (self.shell.bin / name).unlink()

    def calls(self):
        """What was asked for since the last look."""
        lines = [re.sub(r"/.*/", "", line) for line in self.log.read_text().splitlines()]
        self.log.write_text("")
        return lines

    def setup(self, *args, **kw):
        return self.shell("bash", self.root / "utils/setup.sh", *args, **kw)[1]

    def source(self, command="true", **kw):
        return self.shell("bash", "-euc", '. "%s/path.sh"; %s' % (self.root, command), **kw)


@pytest.fixture
def machine(shell):
    return Machine(shell)


ALL = ["venv", "pip requirements.txt"]


def test_made_once_and_made_good_when_the_list_changes(machine):
    _, err = machine.source()
    assert machine.calls() == ALL and "making .venv with Python 3.11.0" in err
    assert machine.source() == ("", "") and machine.calls() == []
    assert machine.setup() == "" and machine.calls() == []
    with open(machine.root / "utils/requirements.txt", "a") as f:
        f.write("more==1\n")
    machine.source()
    assert machine.calls() == ["pip requirements.txt"]


def test_environment(machine, shell):
    machine.source()
    recipe = machine.root / "egs/mini"
    recipe.mkdir(parents=True)
    (recipe / "path.sh").symlink_to("../../path.sh")
    print_all = 'printf "%s\\n" "$SVQ_ROOT" "$PATH" "$PYTHONPATH" "$LC_ALL"'
    root = str(machine.root)
    out, err = shell("bash", "-euc", 'cd "%s"; . ./path.sh; . ./path.sh; %s' % (recipe, print_all),
                     PYTHONPATH="/other one:/and", LC_ALL="C.UTF-8")
    assert err == "" and out.splitlines() == [
        root, "%s/.venv/bin:%s/utils:%s" % (root, root, shell.bin), root + ":/other one:/and", "C"]
    out, _ = shell("bash", "-euc", 'cd "%s"; . ./path.sh; %s' % (recipe, print_all))
    assert out.splitlines()[2] == root


def test_extras_are_added_once(machine):
    machine.setup("--extras", "test")
    assert machine.calls() == ALL + ["pip requirements-test.txt"]
    machine.setup("--extras", "test")
    assert machine.calls() == []
    machine.setup("--extras", "test deploy")
    assert machine.calls() == ["pip requirements-deploy.txt"]


def kill_in(machine, shell, what):
    """Starts the set-up and kills it while `what` (venv or pip) runs."""
    slow = shell.write(f"calls.slow.{what}", "")
    process = shell.start("bash", machine.root / "utils/setup.sh")
    shell.until((shell.folder / "calls.started").exists, f"{what} runs")
    process.kill()
    slow.unlink()
    machine.calls()


def test_killed_while_packages_come_keeps_those_that_are_whole(machine, shell):
    kill_in(machine, shell, "pip")
    packages = machine.root / ".venv/lib/python3.11/site-packages"
    for name in ("whole-1.dist-info/INSTALLER", "half-1.dist-info/METADATA"):
        (packages / name).parent.mkdir(parents=True)
        (packages / name).write_text("pip\n")
    assert "stopped half-way" in machine.source()[1]
    assert machine.calls() == ["pip requirements.txt"]
    assert [path.name for path in packages.iterdir()] == ["whole-1.dist-info"]
    assert machine.source() == ("", "")


def test_killed_while_more_packages_come_keeps_the_others(machine, shell):
    machine.source()
    slow = shell.write("calls.slow.pip", "")
    process = shell.start("bash", machine.root / "utils/setup.sh", "--extras", "test")
    shell.until((shell.folder / "calls.started").exists, "pip runs")
    process.kill()
    slow.unlink()
    machine.calls()
    machine.source()
    assert machine.calls() == ["pip requirements.txt"]
    machine.setup("--extras", "test")
    assert machine.calls() == ["pip requirements-test.txt"]


def test_killed_before_there_is_an_environment_makes_it_anew(machine, shell):
    kill_in(machine, shell, "venv")
    assert "stopped before .venv was made" in machine.source()[1]
    assert machine.calls() == ALL
    assert machine.source() == ("", "")


CPU_BUILD = "torch for the CPU"
without_card = pytest.mark.skipif(any(os.path.exists(name) for name in ("/dev/nvidiactl", "/dev/dxg")),
                                  reason="this machine has an NVIDIA card")


@without_card
def test_without_a_card_torch_is_the_build_for_the_cpu(machine):
    machine.pip_settings("global.timeout='60'")
    assert "torch for the CPU: 0.3 GB to download" in machine.source()[1]
    assert machine.calls() == ["venv", CPU_BUILD, "pip requirements.txt"]


@without_card
@pytest.mark.parametrize("why", ["a card", "a cluster", "an index that does not answer"])
def test_torch_of_pypi(machine, shell, why):
    machine.pip_settings("")
    if why == "an index that does not answer":
        shell.write("calls.deaf", "")
    else:
        shell.write(f"fake bin/{'nvidia-smi' if why == 'a card' else 'sbatch'}", "#!/bin/sh\n", executable=True)
    err = machine.source()[1]
    assert "torch with CUDA: 3 GB to download" in err and ("does not answer" in err) == ("answer" in why)
    assert machine.calls() == ALL


def test_the_build_of_torch_that_is_asked_for(machine, shell):
    machine.setup(SVQ_TORCH="cuda")
    assert machine.calls() == ALL
    shutil.rmtree(machine.root / ".venv")
    machine.setup(SVQ_TORCH="cpu")
    assert CPU_BUILD in machine.calls()
    shutil.rmtree(machine.root / ".venv")
    assert machine.setup(SVQ_TORCH="gpu", code=1).splitlines()[-1] == \
        "setup.sh: SVQ_TORCH=gpu is not one of auto, cpu, cuda"


@pytest.mark.parametrize("setting", ["global.index-url='https://mirror.example/simple'", "global.no-index='1'",
                                     ":env:.extra-index-url='https://mirror.example/simple'"])
def test_an_index_of_pips_settings_is_the_only_one(machine, setting):
    machine.pip_settings(setting + "\n")
    assert "packages come from where pip's settings say" in machine.source()[1]
    assert machine.calls() == ALL


def test_torch_that_is_there_is_not_chosen_again(machine):
    machine.setup(SVQ_TORCH="cuda")
    pin = re.search("torch==(.*)", (machine.root / "utils/requirements.txt").read_text())[1]
    (machine.root / f".venv/lib/python3.11/site-packages/torch-{pin}.dist-info").mkdir(parents=True)
    with open(machine.root / "utils/requirements.txt", "a") as f:
        f.write("more==1\n")
    machine.calls()
    assert "GB to download" not in machine.source()[1] and machine.calls() == ["pip requirements.txt"]


def test_two_at_once(machine, shell):
    slow = shell.write("calls.slow.pip", "")
    first = shell.start("bash", machine.root / "utils/setup.sh")
    shell.until((shell.folder / "calls.started").exists, "pip runs")
    second = shell.start("bash", machine.root / "utils/setup.sh")
    assert "waiting for another set-up" in second.stderr.readline()
    slow.unlink()
    assert first.wait(60) == 0 and second.wait(60) == 0
    assert machine.calls() == ALL


def test_failed_pip_stops_the_script(machine, shell):
    fail = shell.write("calls.fail", "")
    out, err = machine.source("echo went on", code=1)
    assert out == "" and "no such version" in err and "pip could not install utils/requirements.txt" in err
    fail.unlink()
    machine.source()


def test_venv_whose_python_is_gone(machine):
    machine.source()
    (machine.root / ".venv/bin/python3").unlink()
    machine.calls()
    machine.source()
    assert machine.calls() == ALL


def test_no_python(machine):
    machine.lacks("python3")
    assert "no Python from 3.10 to 3.14" in machine.setup(code=1)
    machine.has_apt()
    err = machine.setup(code=1)
    assert "type: sudo apt-get install -y python3 python3-venv\n" in err
    assert not (machine.root / ".venv").exists() and machine.calls() == []


def test_python_installed_by_root(machine, shell):
    (shell.bin / "python3").rename(shell.bin / "hidden")
    machine.has_apt()
    machine.user(0)
    machine.setup()
    calls = machine.calls()
    assert calls[0].startswith("apt-get update") and "python3-venv" in calls[1] and calls[2:] == ALL


def test_python_too_old(machine, shell):
    shell.write("calls.old", "")
    assert "3.10 to 3.14" in machine.setup(code=1)
    assert "SVQ_PYTHON=python3 is not" in machine.setup(code=1, SVQ_PYTHON="python3")


def test_python_without_venv(machine, shell):
    shell.write("calls.bare", "")
    machine.has_apt()
    assert "type: sudo apt-get install -y python3-venv\n" in machine.setup(code=1)
    machine.user(0)
    machine.setup()
    assert machine.calls()[2:] == ALL


def test_named_python(machine, shell):
    (shell.bin / "python3").rename(shell.folder / "my python")
    machine.setup(SVQ_PYTHON=str(shell.folder / "my python"))
    assert machine.calls() == ALL
    shutil.rmtree(machine.root / ".venv")
    assert "SVQ_PYTHON=nowhere is not a Python" in machine.setup(code=1, SVQ_PYTHON="nowhere")


def test_sox_is_said_to_be_missing_or_installed(machine, shell):
    machine.lacks("sox")
    machine.has_apt()
    assert machine.setup().splitlines()[-1] == \
        "setup.sh: sox is missing; type: sudo apt-get install -y sox libsox-fmt-base"
    machine.user(0)
    machine.setup()
    assert any("sox" in c for c in machine.calls()) and (shell.bin / "sox").exists()


def test_programs_only_when_asked_for(machine):
    machine.has_apt()
    machine.user(0)
    machine.setup()
    assert machine.calls() == ALL
    machine.setup("--with", "npm chromium")
    assert [c.split()[3] for c in machine.calls() if " install " in c] == ["npm", "chromium"]
    machine.setup("--with", "ffmpeg")
    assert any("ffmpeg" in c for c in machine.calls())
    machine.lacks("ffmpeg", "apt-get")
    assert "ffmpeg is missing and no package manager" in machine.setup("--with", "ffmpeg", code=1)


def test_what_the_pages_say_is_done(machine):
    from tests.test_docs import COMMANDS, program_of

    machine.has_apt()
    machine.user(0)
    asked = [program_of(words)[1] for _, words, _ in COMMANDS if program_of(words)[0] == "utils/setup.sh"]
    for options in asked:
        machine.setup(*options)
    called = machine.calls()
    assert len(asked) > 5 and {*ALL, "pip requirements-test.txt", "pip requirements-deploy.txt"} <= set(called)
    assert {"ffmpeg", "npm", "chromium"} <= {call.split()[3] for call in called if " install " in call}


@pytest.mark.parametrize("args, code", [(["--with", "vlc"], 1), (["--extras", "no"], 1),
                                        (["--extras"], 2), (["--no-such", "1"], 2)])
def test_wrong_command_line(machine, args, code):
    assert machine.setup(*args, code=code).count("\n") == 1 and machine.calls() == []
