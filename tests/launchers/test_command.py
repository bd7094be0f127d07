import pytest

from kaiyuan_jax.config import ConfigError, UserError
from kaiyuan_jax.launchers import command
from kaiyuan_jax.training import saved


def test_arguments_are_cut_at_the_first_two_dashes():
    assert command.split(["x.py", "--a", "--", "--config=c", "--", "--b"]) == (["x.py", "--a"], ["--config=c", "--", "--b"])
    assert command.split(["x.py", "--a"]) == (["x.py", "--a"], [])


def test_an_experiment_before_the_two_dashes_is_said_to_be_in_the_wrong_place(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.split(["x.py", "--a", "--config.seed=1", "--", "--b"])
    assert capsys.readouterr().err.startswith("error: --config.seed: stands before `--`")


def test_the_experiment_is_the_one_that_the_arguments_describe(config_file):
    arguments = [f"--config={config_file('runs/x')}", "--config.schedule.peak=2e-3", "--heartbeat_timeout=7"]
    experiment = command.experiment(arguments)
    assert experiment.schedule.peak == 2e-3 and experiment.folder == "runs/x"
    assert command.experiment(arguments[:1]).schedule.peak != 2e-3  # and leaves nothing behind


def test_what_is_wrong_with_it_is_said_before_anything_starts(config_file):
    with pytest.raises(UserError, match="no --config after `--`"):
        command.experiment(["--heartbeat_timeout=7"])
    with pytest.raises(ConfigError, match="config.checkpoint.every"):
        command.experiment([f"--config={config_file('runs/x')}", "--config.checkpoint.every=0"])


def test_other_flags_are_those_that_do_not_describe_the_experiment():
    arguments = [
        "--config",
        "c.py",
        "--config.a=1",
        "--config.b",
        "2",
        "--noconfig.c",
        "--config.d",
        "--dry_run",
        "--configure=1",
        "--process=3",
    ]
    assert command.others(arguments) == ["--dry_run", "--configure=1", "--process=3"]


def test_a_run_is_finished_when_its_last_checkpoint_is_complete(config_file, tmp_path, launch):
    file = config_file(tmp_path / "run")
    assert launch("finished", f"--config={file}")[:2] == (75, "0 40\n")
    for step, complete in (20, True), (40, False):
        folder = tmp_path / "run/checkpoints" / str(step)
        folder.mkdir(parents=True)
        if complete:
            (folder / saved.COMPLETE).touch()
    progress = command.progress(command.experiment([f"--config={file}"]))
    assert (progress.newest(), progress.steps, progress.finished()) == (20, 40, False)
    (tmp_path / "run/checkpoints/40" / saved.COMPLETE).touch()
    assert progress.finished()
    assert launch("finished", f"--config={file}")[:2] == (0, "40 40\n")
