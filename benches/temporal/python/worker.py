"""Processes with a worker each, set up as Temporal's Python sample `worker_multiprocessing` does it."""

import argparse
import asyncio
import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed

from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import GrpcCompression
from temporalio.worker import PollerBehaviorSimpleMaximum, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workflows import (
    ACTIVITY_TASK_QUEUE,
    WORKFLOW_TASK_QUEUE,
    BurnWorkflow,
    ParallelizedWorkflow,
    TrivialWorkflow,
    echo_pid_activity,
)

# Each process makes its own, after the fork.
Runtime.prevent_default()


def workflow_worker(client: Client) -> Worker:
    os_is_allowed = dataclasses.replace(
        SandboxRestrictions.default,
        invalid_module_members=SandboxRestrictions.invalid_module_members_default.with_child_unrestricted("os"),
    )
    return Worker(
        client,
        task_queue=WORKFLOW_TASK_QUEUE,
        workflows=[ParallelizedWorkflow, TrivialWorkflow, BurnWorkflow],
        # The sample's own figures.
        max_concurrent_workflow_tasks=2,
        workflow_task_poller_behavior=PollerBehaviorSimpleMaximum(2),
        workflow_runner=SandboxedWorkflowRunner(restrictions=os_is_allowed),
    )


def activity_worker(client: Client) -> Worker:
    return Worker(client, task_queue=ACTIVITY_TASK_QUEUE, activities=[echo_pid_activity])


def serve(worker_of, gzip: bool) -> None:
    Runtime.set_default(Runtime(telemetry=TelemetryConfig()))

    async def run() -> None:
        config = ClientConfig.load_client_connect_config()
        if not gzip:
            config["grpc_compression"] = GrpcCompression.NONE
        await worker_of(await Client.connect(**config)).run()

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-w", "--num-workflow-workers", type=int, default=2)
    parser.add_argument("-a", "--num-activity-workers", type=int, default=1)
    parser.add_argument("--no-gzip", dest="gzip", action="store_false", help="no compression, as ours")
    args = parser.parse_args()
    workers = [workflow_worker] * args.num_workflow_workers + [activity_worker] * args.num_activity_workers
    with ProcessPoolExecutor(len(workers), mp_context=multiprocessing.get_context("fork")) as executor:
        for ended in as_completed([executor.submit(serve, worker, args.gzip) for worker in workers]):
            ended.result()


if __name__ == "__main__":
    main()
