"""Process groups, signals, DeepSpeed engines and sequence parallelism."""

from .process import deepspeed_log

deepspeed_log.leave_out_false_alarm()
