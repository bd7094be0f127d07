"""A run on TPU slices of a Kubernetes cluster: an image with the snapshot, and a JobSet with a Job for each slice and a pod for each host.

    every pod finished             the JobSet is complete
    a pod ends with 1 or 2         it diverged or was given a mistake: podFailurePolicy fails the Job, the JobSet fails at once
    a pod ends otherwise, a node is lost or taken away        all Jobs are made anew, `maxRestarts` times, and resume

In a pod launch/local.py passes the SIGTERM of an eviction on, waits for the checkpoint within terminationGracePeriodSeconds, and ends
with 75 when the run is not finished: a pod that only saved must not count as complete. Kubernetes has no count that begins anew with
progress, so `maxRestarts` covers the whole run.
"""

import dataclasses
import re
import shlex
from pathlib import Path

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers.local import DIVERGED, MISTAKE
from kaiyuan_jax.launchers.tpus import Slice

HOST_CHIPS = 4


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    slice: Slice
    image: str  # without tag: the snapshot's name is the tag
    slices: int = 1
    host_chips: int = 0  # chips of a host; 0: 4, or all of a smaller slice
    spot: bool = False
    restarts: int = 100
    grace: float = 60.0
    namespace: str = ""
    service_account: str = ""  # of Kubernetes; its rights to the bucket
    queue: str = ""  # of Kueue

    @property
    def chips(self) -> int:
        return self.host_chips or min(HOST_CHIPS, self.slice.chips)

    def check(self) -> None:
        """Raises UserError for what the cluster would refuse."""
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,40}[a-z0-9])?", self.name):
            raise UserError(f"--name={self.name}: must be of at most 42 lower-case letters, digits and hyphens, and begin with a letter")
        if self.slice.chips % self.chips:
            raise UserError(f"--host_chips={self.chips}: must divide the {self.slice.chips} chips of a slice")
        if not self.image or re.search(r"[\s@]|:[^/]*$", self.image):
            raise UserError(
                f"--image={self.image}: must be a registry's path without tag, such as europe-docker.pkg.dev/project/folder/kaiyuan_jax"
            )


def dockerfile(jax: str) -> str:
    """To be built in an unpacked snapshot."""
    return f"""FROM python:3.12-slim
WORKDIR /kaiyuan_jax
COPY code/requirements.lock ./
RUN pip install --no-cache-dir -r requirements.lock 'jax[tpu]=={jax}' gcsfs
COPY config.json ./
COPY code ./code
ENV PYTHONPATH=/kaiyuan_jax/code
"""


def command(job: Job, passed: tuple[str, ...]) -> list[str]:
    """What a pod runs."""
    own = ["--restarts=0", f"--grace={job.grace:g}", "--nosnapshot"]
    return ["python", "code/launch/local.py", *own, "--", "--distributed", "--config=code/configs/saved.py:config.json", *passed]


def jobset(job: Job, tag: str, passed: tuple[str, ...]) -> dict:
    """The JobSet (jobset.x-k8s.io/v1alpha2), to be written as YAML."""
    job.check()
    hosts = job.slice.chips // job.chips
    selector = {"cloud.google.com/gke-tpu-accelerator": job.slice.generation.gke, "cloud.google.com/gke-tpu-topology": job.slice.topology}
    container = {
        "name": "train",
        "image": f"{job.image}:{tag}",
        "command": command(job, passed),
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "securityContext": {"privileged": True},
        "resources": {"requests": {"google.com/tpu": job.chips}, "limits": {"google.com/tpu": job.chips}},
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": round(job.grace) + 15,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector | ({"cloud.google.com/gke-spot": "true"} if job.spot else {}),
        **({"serviceAccountName": job.service_account} if job.service_account else {}),
        "containers": [container],
    }
    final = {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [DIVERGED, MISTAKE]}}
    work = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,  # one lost pod ends its Job, and with it the JobSet's attempt
        "podFailurePolicy": {"rules": [final]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": job.name,
            **({"namespace": job.namespace} if job.namespace else {}),
            **({"labels": {"kueue.x-k8s.io/queue-name": job.queue}} if job.queue else {}),
            "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": job.restarts,
                "rules": [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": job.slices, "template": {"spec": work}}],
        },
    }


def to_yaml(tree: dict) -> str:
    import yaml  # comes with ml_collections

    return yaml.safe_dump(tree, sort_keys=False, width=1000)


def commands(job: Job, folder: Path) -> list[list[str]]:
    """What builds and starts it from an unpacked snapshot that also holds Dockerfile and jobset.yaml."""
    image = f"{job.image}:{folder.name}"
    return [
        ["docker", "build", "--tag", image, str(folder)],
        ["docker", "push", image],
        ["kubectl", "apply", "-f", str(folder / "jobset.yaml")],
    ]


def xpk(job: Job, tag: str, cluster: str, passed: tuple[str, ...]) -> list[str]:
    """The same by XPK, which writes a JobSet of its own."""
    flags = [f"--cluster={cluster}", f"--workload={job.name}", f"--tpu-type={job.slice.accelerator_type}", f"--num-slices={job.slices}"]
    flags += [f"--docker-image={job.image}:{tag}", f"--max-restarts={job.restarts}", f"--command={shlex.join(command(job, passed))}"]
    return ["xpk", "workload", "create", *flags]
