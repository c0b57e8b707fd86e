"""The command that plans a run."""

import subprocess

from fixtures.runs import write_prior, write_vqgan

from smalti.launch import plan
from smalti.trainer.vqgan import frozen_losses


def test_a_plan_says_what_fits_and_writes_the_job_script(tmp_path, capsys):
    config = write_vqgan(tmp_path, precision="bf16")
    script = tmp_path / "job.sbatch"
    asked = [str(config), "--nodes", "2", "--gpus", "2", "--memory", "16", "--sbatch", str(script)]
    assert plan.main(asked) == 0
    said = capsys.readouterr().out
    assert "vqgan on 2 node(s) of 2 GPUs with 16 GiB each" in said
    assert all(word in said for word in ("generator_training", "discriminator_training", "zero 3", "a checkpoint"))
    assert "recommended: --set batch.micro_batch_size=2" in said
    text = script.read_text()
    assert "#SBATCH --nodes=2\n" in text and "#SBATCH --ntasks-per-node=2\n" in text and "--gres=gpu:2\n" in text
    assert f'smalti.launch.train {config} --set batch.micro_batch_size=2 "$@" &' in text
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0


def test_what_does_not_fit_or_cannot_be_planned_is_told_by_the_exit_code(tmp_path, capsys):
    config = str(write_prior(tmp_path))
    assert plan.main([config, "--gpus", "2", "--memory", "1e-5"]) == 1
    assert "not even one sample fits into 1e-05 GiB" in capsys.readouterr().out
    assert plan.main([config, "--gpus", "3"]) == 2
    assert "nearest: 6 or 9" in capsys.readouterr().err
    assert plan.main([config, "--set", f"tokenizer={tmp_path / 'nowhere'}"]) == 2
    assert "--codes" in capsys.readouterr().err
    assert plan.main([config, "--set", f"tokenizer={tmp_path / 'nowhere'}", "--codes", "16", "--gpus", "2"]) == 0
    assert plan.main([]) == 2


def test_prefetching_needs_no_config(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frozen_losses, "prefetch", lambda: [tmp_path / "vgg16.pth"])
    assert plan.main(["--prefetch"]) == 0
    assert "there: " in capsys.readouterr().out
