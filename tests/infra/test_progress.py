from infra import progress
from infra.progress import Progress, Screen


def test_progress_prints_the_end_and_at_most_one_line_an_interval(capsys):
    report = Progress("teach", every_s=1000)
    for done in range(1, 101):
        report(done, 100, "rationales", failed=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("teach: 100/100 rationales, ")
    assert lines[0].endswith("failed 2")


def test_a_log_gets_plain_lines(capsys):
    Screen().show("teach: 3/10 rationales, 1.0/s")
    assert capsys.readouterr().out == "teach: 3/10 rationales, 1.0/s\n"


def test_a_terminal_gets_a_bar_that_redraws_itself(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True)
    screen = Screen(width=10)
    screen.show("teach: 5/10 rationales")
    screen.show("teach: 10/10 rationales")
    screen.show("teach: sealed")
    shown = capsys.readouterr().out
    assert "█████░░░░░" in shown
    assert shown.endswith("teach: sealed\n")
