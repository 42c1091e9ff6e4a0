"""The workflows of the comparison, as they are in Rust."""

import os
from datetime import timedelta

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from burn import burn

WORKFLOW_TASK_QUEUE = "workflow-task-queue"
ACTIVITY_TASK_QUEUE = "activity-task-queue"


@activity.defn
async def echo_pid_activity(input: str) -> str:
    return f"{input} | activity-pid:{os.getpid()}"


@workflow.defn
class ParallelizedWorkflow:
    @workflow.run
    async def run(self) -> str:
        pid = os.getpid()
        echoed = await workflow.execute_activity(
            echo_pid_activity,
            f"wf-starting-pid:{pid}",
            task_queue=ACTIVITY_TASK_QUEUE,
            start_to_close_timeout=timedelta(seconds=10),
        )
        return f"{echoed} | wf-ending-pid:{pid}"


@workflow.defn
class TrivialWorkflow:
    @workflow.run
    async def run(self) -> None:
        pass


@workflow.defn
class BurnWorkflow:
    @workflow.run
    async def run(self, millis: int) -> None:
        burn(millis)
