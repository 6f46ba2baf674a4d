"""Where the processes of a run are: from TF_CONFIG, or by asking the first of them."""

import contextlib
import dataclasses
import json
import socket
import time

from vit_tf import config


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Which processes there are: 'host:port' of each, and which of them this is."""

    addresses: tuple[str, ...]
    index: int

    def to_text(self) -> str:
        """What TensorFlow reads from the environment as TF_CONFIG."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": self.addresses}, "task": task})


def parse(text: str | None) -> Cluster:
    """Reads TF_CONFIG; a chief counts as the first worker.

    Raises:
        config.Refused: it is missing or malformed.
    """
    if not text:
        raise config.Refused(
            "--strategy=multi_worker: TF_CONFIG is not set; set it, or give "
            "--num_workers, --worker_index and --coordinator=HOST:PORT"
        )
    try:
        found = json.loads(text)
        jobs, task = found["cluster"], found["task"]
        kind, index = task["type"], task["index"]
        extra = sorted(jobs.keys() - {"chief", "worker"})
        places = [(job, i) for job in ("chief", "worker") for i in _numbers(jobs, job)]
        addresses = tuple(jobs[job][i] for job, i in places)
    except json.JSONDecodeError as error:
        raise _malformed(f"not JSON ({error})") from None
    except KeyError as error:
        raise _malformed(f"{error.args[0]!r} is missing") from None
    except (TypeError, AttributeError) as error:
        raise _malformed(str(error)) from None
    if extra:
        raise _malformed(f"job {extra[0]!r}: every process here is a 'worker'")
    if (kind, index) not in places:
        raise _malformed(f"task {kind!r} {index!r} is not one of the cluster's")
    for address in addresses:
        _check_address(address, "TF_CONFIG")
    if len(set(addresses)) < len(addresses):
        raise _malformed("two workers have the same address")
    return Cluster(addresses, places.index((kind, index)))


def _numbers(jobs: dict, job: str) -> range:
    addresses = jobs.get(job, [])
    if not isinstance(addresses, list):
        raise TypeError(f"cluster.{job} is not a list of 'host:port'")
    return range(len(addresses))


def _malformed(why: str) -> config.Refused:
    return config.Refused(
        f"TF_CONFIG: {why}; need "
        '{"cluster": {"worker": ["host:port", ...]}, '
        '"task": {"type": "worker", "index": 0}}'
    )


def _check_address(address, name: str) -> tuple[str, int]:
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise config.Refused(f"{name}: {address!r} is not an address: need HOST:PORT")
    return host, int(port)


def rendezvous(
    coordinator: str, *, num_workers: int, index: int, patience: float = 300.0
) -> Cluster:
    """Finds the addresses of all workers; worker 0 listens at the coordinator's.

    Every worker tells worker 0 a free port of its host and gets the list of all.

    Args:
        coordinator: 'host:port' of worker 0, which all can reach.
        num_workers: how many processes there are.
        index: which of them this is.
        patience: seconds until a missing worker is given up.

    Raises:
        config.Refused: a wrong number, or a worker that does not come.
    """
    host, port = _check_address(coordinator, "--coordinator")
    if not 0 <= index < num_workers:
        raise config.Refused(
            f"--worker_index={index}: need 0 to {num_workers - 1} with "
            f"--num_workers={num_workers}"
        )
    until = time.monotonic() + patience
    if index == 0:
        addresses = _gather(host, port, num_workers, until)
    else:
        addresses = _ask(host, port, num_workers, index, until)
    return Cluster(tuple(addresses), index)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _gather(host: str, port: int, num_workers: int, until: float) -> list[str]:
    """Worker 0: hears every other worker, then tells all of them the addresses."""
    found, callers = {0: f"{host}:{_free_port()}"}, []
    try:
        server = socket.create_server(("", port), backlog=num_workers)
    except OSError as error:
        raise config.Refused(
            f"--coordinator={host}:{port}: worker 0 cannot listen there "
            f"({error.strerror}); choose another port"
        ) from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        while len(found) < num_workers:
            server.settimeout(max(0.0, until - time.monotonic()) or 1e-3)
            try:
                caller, (address, *_) = server.accept()
                stack.enter_context(caller)
                caller.settimeout(10)
                said = json.loads(caller.makefile().readline())
            except TimeoutError:
                missing = [i for i in range(num_workers) if i not in found]
                raise config.Refused(
                    f"--coordinator={host}:{port}: workers {missing} did not come; "
                    "start them with the same --num_workers and --coordinator"
                ) from None
            except (OSError, ValueError):
                continue  # not one of ours
            answer = _welcome(said, found, num_workers)
            if answer is not None:
                caller.sendall((json.dumps({"refused": answer}) + "\n").encode())
                raise config.Refused(answer)
            found[said["index"]] = f"{address}:{said['port']}"
            callers.append(caller)
        addresses = [found[i] for i in range(num_workers)]
        for caller in callers:
            caller.sendall((json.dumps({"addresses": addresses}) + "\n").encode())
    return addresses


def _welcome(said: dict, found: dict, num_workers: int) -> str | None:
    """Why a worker that came is not one of this run's, or None."""
    if said["num_workers"] != num_workers:
        return (
            f"--num_workers={said['num_workers']} at worker {said['index']} and "
            f"{num_workers} at worker 0: give all the same"
        )
    if said["index"] in found:
        return f"--worker_index={said['index']}: two workers have it"
    return None


def _ask(host, port, num_workers, index, until) -> list[str]:
    """The other workers: tell worker 0 a port, wait for the list of addresses."""
    hello = {"index": index, "num_workers": num_workers, "port": _free_port()}
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as line:
                line.sendall((json.dumps(hello) + "\n").encode())
                line.settimeout(max(1.0, until - time.monotonic()))
                answer = json.loads(line.makefile().readline())
            break
        except (OSError, ValueError):
            if time.monotonic() > until:
                raise config.Refused(
                    f"--coordinator={host}:{port}: worker 0 does not answer; start "
                    "it there with --worker_index=0"
                ) from None
            time.sleep(0.2)
    if "refused" in answer:
        raise config.Refused(answer["refused"])
    return answer["addresses"]
