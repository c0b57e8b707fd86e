"""What logging costs is measured in one run, in turns with and without."""

import argparse

from smalti.launch.bench import logging


def test_the_share_of_logging_is_its_time_in_the_steps_that_log(capsys):
    parser = argparse.ArgumentParser()
    logging.add_arguments(parser)
    figures = logging.run(parser.parse_args(["--every", "2", "--rounds", "2", "--layers", "1"]))
    assert figures["logging_share"] == max(figures["logging_share_vqgan"], figures["logging_share_prior"])
    assert 0 < figures["logging_share"] < 1
    said = capsys.readouterr().out
    # Two steps before, then turns of two with logging, whose lines end them, and of one without.
    assert [line.split()[1] for line in said.splitlines() if line.startswith("step ")] == ["4/8", "7/8"] * 2
    assert "| step | seconds without | with logging | of logging alone | share |" in said
