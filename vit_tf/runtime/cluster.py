"""The addresses of a run's processes: from TF_CONFIG, or agreed on over the network."""

import contextlib
import dataclasses
import json
import socket
import time

import tenacity

from vit_tf import errors


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run.

    Attributes:
        addresses: 'host:port' of every process; the first is the chief.
        index: which of them this process is.
    """

    addresses: tuple[str, ...]
    index: int

    def to_text(self) -> str:
        """Returns the JSON that TensorFlow reads from the variable TF_CONFIG."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": self.addresses}, "task": task})


def parse(text: str | None) -> Cluster:
    """Reads TF_CONFIG; a chief counts as the first worker.

    Raises:
        errors.UserError: it is missing or malformed.
    """
    if not text:
        raise errors.UserError(
            "--strategy=multi_worker: TF_CONFIG is not set; set it, or give "
            "--num_workers, --worker_index and --coordinator=HOST:PORT"
        )
    try:
        spec = json.loads(text)
        jobs, task = spec["cluster"], spec["task"]
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


def _malformed(why: str) -> errors.UserError:
    return errors.UserError(
        f"TF_CONFIG: {why}; need "
        '{"cluster": {"worker": ["host:port", ...]}, '
        '"task": {"type": "worker", "index": 0}}'
    )


def _check_address(address, name: str) -> tuple[str, int]:
    host, _, port = str(address).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise errors.UserError(f"{name}: {address!r} is not an address: need HOST:PORT")
    return host, int(port)


def rendezvous(
    coordinator: str, *, num_workers: int, index: int, patience: float = 300.0
) -> Cluster:
    """Finds the addresses of all workers; worker 0 listens at the coordinator's.

    Every worker sends worker 0 a free port of its host and receives the list of all.

    Args:
        coordinator: 'host:port' of worker 0, which all can reach.
        num_workers: how many processes there are.
        index: which of them this is.
        patience: seconds to wait for a missing worker.

    Raises:
        errors.UserError: an index out of range, or a worker that does not connect.
    """
    host, port = _check_address(coordinator, "--coordinator")
    if not 0 <= index < num_workers:
        raise errors.UserError(
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
    """Waits, as worker 0, for every other worker, then sends all of them the addresses."""
    ports, callers = {0: f"{host}:{_free_port()}"}, []
    try:
        server = socket.create_server(("", port), backlog=num_workers)
    except OSError as error:
        raise errors.UserError(
            f"--coordinator={host}:{port}: worker 0 cannot listen there "
            f"({error.strerror}); choose another port"
        ) from None
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        while len(ports) < num_workers:
            server.settimeout(max(0.0, until - time.monotonic()) or 1e-3)
            try:
                caller, (address, *_) = server.accept()
                stack.enter_context(caller)
                caller.settimeout(10)
                hello = json.loads(caller.makefile().readline())
            except TimeoutError:
                missing = [i for i in range(num_workers) if i not in ports]
                raise errors.UserError(
                    f"--coordinator={host}:{port}: workers {missing} did not connect; "
                    "start them with the same --num_workers and --coordinator"
                ) from None
            except (OSError, ValueError):
                continue  # not one of ours
            reason = _why_refused(hello, ports, num_workers)
            if reason is not None:
                caller.sendall((json.dumps({"refused": reason}) + "\n").encode())
                raise errors.UserError(reason)
            ports[hello["index"]] = f"{address}:{hello['port']}"
            callers.append(caller)
        addresses = [ports[i] for i in range(num_workers)]
        for caller in callers:
            caller.sendall((json.dumps({"addresses": addresses}) + "\n").encode())
    return addresses


def _why_refused(hello: dict, known: dict, num_workers: int) -> str | None:
    """Returns why a worker that connected is not one of this run's, or None."""
    if hello["num_workers"] != num_workers:
        return (
            f"--num_workers={hello['num_workers']} at worker {hello['index']} and "
            f"{num_workers} at worker 0: give all the same"
        )
    if hello["index"] in known:
        return f"--worker_index={hello['index']}: two workers have it"
    return None


def _ask(host: str, port: int, num_workers: int, index: int, until: float) -> list[str]:
    """Sends worker 0 a port, as the other workers do, and waits
    for the list of addresses.
    """
    hello = {"index": index, "num_workers": num_workers, "port": _free_port()}
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((OSError, ValueError)),
        wait=tenacity.wait_fixed(0.2),
        stop=tenacity.stop_after_delay(max(0.0, until - time.monotonic())),
    )

    def ask() -> dict:
        with socket.create_connection((host, port), timeout=5) as line:
            line.sendall((json.dumps(hello) + "\n").encode())
            line.settimeout(max(1.0, until - time.monotonic()))
            return json.loads(line.makefile().readline())

    try:
        answer = tries(ask)
    except tenacity.RetryError:
        raise errors.UserError(
            f"--coordinator={host}:{port}: worker 0 does not answer; start it there "
            "with --worker_index=0"
        ) from None
    if "refused" in answer:
        raise errors.UserError(answer["refused"])
    return answer["addresses"]
