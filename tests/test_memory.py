"""Which of the processes that Ray ended for want of memory counts as the one that took it."""

from __future__ import annotations

from tuning.memory import lost_process

MESSAGE = """2 worker(s) were killed due to the node running low on memory.
OOM kill reason: Memory usage 4294967296B exceeded threshold of 3221225472B (12.7% of 25276502016B)
Considered workers: [
Selected to kill: (Actor(aa01): job ID=01, task name=T.__init__, pid=9, actual memory used=0.36GB)
Selected to kill: (Actor(bb02): job ID=01, task name=T.__init__, pid=8, actual memory used=1.81GB)
]"""


def test_only_the_largest_process_counts_as_failed():
    assert lost_process("aa01", MESSAGE).preempted
    assert not lost_process("bb02", MESSAGE).preempted
    assert str(lost_process("bb02", MESSAGE)) == (
        "OutOfMemory: Ray ended the trial's process, which held 1.81 GB: "
        "4.0 GiB were in use on its host, above the limit of 3.0"
    )


def test_a_message_of_another_form_counts_as_a_failure():
    assert not lost_process("aa01", "out of memory").preempted
    assert str(lost_process("aa01", "")) == "OutOfMemory: Ray ended the trial's process"
