"""The JobSet, against the fields that its API (jobset.x-k8s.io/v1alpha2) and those of Job and Pod have, and what a pod runs."""

import pytest
import yaml

from kaiyuan_jax.config import UserError
from kaiyuan_jax.launchers import gke, tpus

# field -> fields below it; "*": anything. Written by hand; a field that is not there the cluster refuses.
POD = {
    "restartPolicy": "", "terminationGracePeriodSeconds": "", "hostNetwork": "", "dnsPolicy": "", "nodeSelector": "*",
    "serviceAccountName": "",
    "containers": {
        "name": "", "image": "", "command": "*", "ports": {"containerPort": ""}, "securityContext": {"privileged": ""},
        "resources": {"requests": "*", "limits": "*"},
    },
}  # fmt: skip
JOB = {
    "parallelism": "", "completions": "", "completionMode": "", "backoffLimit": "",
    "podFailurePolicy": {"rules": {"action": "", "onExitCodes": {"containerName": "", "operator": "", "values": "*"}}},
    "template": {"spec": POD},
}  # fmt: skip
JOBSET = {
    "apiVersion": "", "kind": "", "metadata": {"name": "", "namespace": "", "labels": "*", "annotations": "*"},
    "spec": {
        "failurePolicy": {"maxRestarts": "", "rules": {"name": "", "action": "", "onJobFailureReasons": "*"}},
        "replicatedJobs": {"name": "", "replicas": "", "template": {"spec": JOB}},
    },
}  # fmt: skip
PASSED = ("--heartbeat_timeout=9", "--config_like=a b: 'c'")


def job(**fields):
    return gke.Job(**dict(name="x", slice=tpus.parse("v5p:4x4x4"), image="host.dev/p/x") | fields)


def unknown(tree, fields, path=""):
    """Paths in a tree that its fields do not have."""
    if fields == "*":
        return
    if isinstance(tree, list):
        for item in tree:
            yield from unknown(item, fields, path)
    elif isinstance(tree, dict):
        for name, item in tree.items():
            if not isinstance(fields, dict) or name not in fields:
                yield f"{path}.{name}"
            else:
                yield from unknown(item, fields[name], f"{path}.{name}")


def test_the_yaml_holds_the_jobset_and_only_fields_of_the_api():
    tree = gke.jobset(job(spot=True, namespace="n", queue="q", service_account="a", slices=2), "tag", PASSED)
    text = gke.to_yaml(tree)
    assert yaml.safe_load(text) == tree and "&" not in text  # no references, which people misread
    assert list(unknown(tree, JOBSET)) == []
    assert list(unknown({"spec": {"restarts": 1}}, JOBSET)) == [".spec.restarts"]


@pytest.mark.parametrize(
    ("target", "host_chips", "pods", "chips", "label"),
    [
        ("v5p:4x4x4", 0, 16, 4, "tpu-v5p-slice"),
        ("v5e:1x1", 0, 1, 1, "tpu-v5-lite-podslice"),
        ("v6e:2x4", 8, 1, 8, "tpu-v6e-slice"),
        ("tpu7x:2x2x4", 0, 4, 4, "tpu7x"),
    ],
)
def test_a_slice_is_one_job_with_a_pod_for_each_host(target, host_chips, pods, chips, label):
    work = gke.jobset(job(slice=tpus.parse(target), host_chips=host_chips), "tag", ())["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert work["parallelism"] == work["completions"] == pods and work["completionMode"] == "Indexed"
    pod = work["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == label
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == target.split(":")[1]


def test_every_end_but_divergence_and_mistake_begins_again():
    spec = gke.jobset(job(restarts=7), "tag", ())["spec"]
    assert spec["failurePolicy"]["maxRestarts"] == 7
    (rule,) = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    work = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = work["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [1, 2] and work["backoffLimit"] == 0
    assert work["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy allows no other


def test_a_pod_waits_for_its_last_checkpoint_longer_than_training_takes():
    pod = gke.jobset(job(grace=35), "tag", PASSED)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 50
    assert pod["containers"][0]["command"] == [
        "python", "code/launch/local.py", "--restarts=0", "--grace=35", "--nosnapshot", "--", "--distributed",
        "--config=code/configs/saved.py:config.json", *PASSED,
    ]  # fmt: skip


@pytest.mark.parametrize("fields", [{"name": "My_Run"}, {"image": "host.dev/x:latest"}, {"image": ""}, {"host_chips": 7}])
def test_what_the_cluster_would_refuse_is_said(fields):
    with pytest.raises(UserError, match="--(name|image|host_chips)="):
        job(**fields).check()


def test_everything_is_printed_and_nothing_is_written(launch, config_file, tmp_path):
    own = ["--print", "--target=v5p:4x4x4", "--image=host.dev/p/x", "--cluster=c"]
    code, out, error = launch("gke", *own, "--", f"--config={config_file('gs://bucket/run')}", "--heartbeat_timeout=9")
    assert code == 0, error
    docker, rest = out.split("# build/snapshots/SNAPSHOT/jobset.yaml\n")
    tree, commands = rest.split("\n\n")
    assert docker.startswith("# build/snapshots/SNAPSHOT/Dockerfile\nFROM python:3.12") and "jax[tpu]==" in docker
    assert yaml.safe_load(tree)["metadata"]["name"] == "my-run"
    assert commands.splitlines()[:3] == [
        "docker build --tag host.dev/p/x:SNAPSHOT build/snapshots/SNAPSHOT",
        "docker push host.dev/p/x:SNAPSHOT",
        "kubectl apply -f build/snapshots/SNAPSHOT/jobset.yaml",
    ]
    assert "xpk workload create --cluster=c --workload=my-run --tpu-type=v5p-128 --num-slices=1 " in commands
    assert not (tmp_path / "build").exists()
    code, _, error = launch("gke", *own, "--target=tpu7x:2x2x1", "--", f"--config={config_file('gs://bucket/run')}")
    assert code == 2 and error.startswith("error: --cluster=c: what XPK calls slices of --target=tpu7x:2x2x1 is not known")
    code, _, error = launch("gke", *own, "--", f"--config={config_file('runs/x')}")
    assert code == 2 and error.startswith("error: config.output: found 'runs/x'")
