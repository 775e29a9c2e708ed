"""The settings of the daemon: one TOML file, checked to the last key, as frozen structs. A
string under a key says what it means: ``python tools/daemon_settings_reference.py >
docs/daemon_settings.md`` writes the page.

```toml
bundle = "screws.edge"
state = "/var/lib/edgeadapt/state"
trust = ["ed25519:..."]

[[source]]
kind = "folder"
path = "incoming"
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgeadapt.bundle.schema import AdaptMode, Precision
from edgeadapt.daemon.config.addresses import is_local, path_of
from edgeadapt.daemon.config.stream_sections import (
    AnySink,
    AnySource,
    FolderSource,
    JsonlSink,
    MqttSink,
    MqttSource,
    NpzSource,
    SensorSource,
    SequenceSource,
    VideoSource,
)
from edgeadapt.daemon.config.value_types import Amount, Given, Rate
from edgeadapt.daemon.messages import Drop


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a typo must not silently leave a default in place."""


class PolicySection(_Section, frozen=True, kw_only=True):
    """What learning may do."""

    adapt: AdaptMode | None = None
    """`act` corrects answers under a shifted condition, `advise` only recognises it and asks, `off`
    does neither. It can lower what the bundle earned, never raise it; without it the bundle says"""
    new_classes: Literal["refuse", "add"] = "refuse"
    """What a label with an unknown name does: it is refused, or it adds the class"""
    questions_per_day: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    """Most questions in 24 hours, over all streams; without it the bundle says"""
    routing: Literal["signature", "hypervector"] = "signature"
    """How samples find back to a condition that is known: by its signature, or by hypervectors"""
    quiet_questions_per_day: Annotated[int, Meta(ge=0, le=1000000)] = 6
    """Of these, questions that are asked although nothing seems wrong; half of them measure the
    accuracy"""
    trusted_sources: tuple[str, ...] = ()
    """Sources whose labels are a person's word: they are not held for contradicting the model, but
    still vetoed if they would cost accuracy"""


class BudgetSection(_Section, frozen=True, kw_only=True):
    """What learning may cost. What does not fit waits; labels are always learned, as long as the
    day's writes last.
    """

    busy_fraction: Annotated[float, Meta(ge=0.001, le=1)] = 0.2
    """Share of the time, over ten seconds, that may go into adaptation"""
    memory_mib: Amount = 256.0
    """The tensors, pools and waiting samples that the bundle declares must fit, or it is not opened
    """
    write_mib_per_day: Amount = 512.0
    """What the state folder may write to the disk in 24 hours; the last fifth is kept for labels"""
    temperature_c: Annotated[float, Meta(gt=0, le=200)] | None = None
    """Learning pauses while the machine is hotter than this, in degrees Celsius, where that can be
    measured"""
    power_w: Amount | None = None
    """Learning pauses while the machine draws more than this, in watts, where that can be measured
    """
    p99_ratio: Annotated[float, Meta(ge=1, le=1000)] = 1.5
    """Learning pauses while the slowest hundredth of the answers takes longer than this multiple of
    what it takes while nothing is learned, and that is no chance"""


class KeepSection(_Section, frozen=True, kw_only=True):
    """How long things stay, and how many of them."""

    pending_s: Annotated[float, Meta(ge=0, le=1_000_000_000)] = 3600.0
    """Seconds that a sample waits for its label after it was answered; kept in memory only"""
    features_days: Annotated[float, Meta(ge=0, le=1_000_000)] = 30.0
    """Days that the features of a labelled sample are kept, so that it can be forgotten alone"""
    rows: Annotated[int, Meta(ge=100, le=1_000_000_000)] = 100_000
    """Most labelled samples kept; beyond it the oldest go"""
    commits: Annotated[int, Meta(ge=100, le=1_000_000_000)] = 10_000
    """Most changes kept one by one; beyond it the oldest are folded together, and no rollback
    reaches them"""
    selection: Literal["oldest", "adaptive"] = "oldest"
    """Which labelled samples go beyond `rows`: the oldest, or those that adaptive data selection
    leaves out"""


class LoopSection(_Section, frozen=True, kw_only=True):
    """How samples are taken."""

    batch: Annotated[int, Meta(ge=1, le=4096)] = 1
    """Most samples of a stream that are answered together"""
    queue: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    """Most samples that wait for an answer, over all streams"""
    drop: Drop = "oldest"
    """What a full queue does: forget the sample that waited longest, refuse the one that comes, or
    let its source wait; what is dropped is counted"""
    rate_hz: Rate | None = None
    """Samples a second that must be answered: those that cannot be answered in time are answered
    without adapting. Without it every sample is observed"""
    checkpoint_s: Annotated[float, Meta(ge=1, le=1_000_000)] = 300.0
    """Seconds between two checkpoints; one is also taken at the end"""


class ControlSection(_Section, frozen=True, kw_only=True):
    """The HTTP interface that `edgeadapt ctl`, the status page and your own programs use."""

    listen: Annotated[
        str,
        Meta(pattern=r"^(|unix:[^\x00-\x1f]+|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})\Z"),
    ] = "127.0.0.1:8420"
    """`"HOST:PORT"` (port 0: any that is free), `"unix:/run/edgeadapt.sock"`, or `""` for none: no
    HTTP, no `edgeadapt ctl`, no page, no metrics"""
    token_file: Path | None = None
    """File with the bearer token that every request must carry; this, or `users_file`, is needed
    where `listen` is neither a loopback address nor a unix socket. At least 16 characters there.
    Who shows it may do everything"""
    users_file: Path | None = None
    """File of named users, each with a token and a role: `view` looks and asks for answers, `label`
    also observes and labels, `admin` everything. `edgeadapt users` writes it. Read again on SIGHUP
    """
    certificate: Path | None = None
    """PEM file with the certificate for https, and those between it and a trusted authority's. Read
    again on SIGHUP"""
    key: Path | None = None
    """PEM file with the unencrypted key of `certificate`. Read again on SIGHUP"""
    max_body_mib: Annotated[float, Meta(ge=0.001, le=4096)] = 16.0
    """Largest body of a request that is read"""
    timeout_s: Annotated[float, Meta(ge=0.01, le=3600)] = 10.0
    """Seconds that a request may wait for its answer"""

    @property
    def is_on(self) -> bool:
        """There is an interface at all."""
        return self.listen != ""

    @property
    def socket(self) -> Path | None:
        """The unix socket; None for an address."""
        return path_of(self.listen)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None for a unix socket, or where there is no interface."""
        if self.socket is not None or not self.is_on:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it, or nobody."""
        return not self.is_on or is_local(self.listen)


class MetricsSection(_Section, frozen=True, kw_only=True):
    """Metrics for Prometheus, at `/metrics` of the control interface."""

    enabled: bool = True
    """Whether they are offered; without the control interface they never are"""


class TelemetrySection(_Section, frozen=True, kw_only=True):
    """What the machine says of itself, beside what `/sys` shows."""

    tegrastats: Path | None = None
    """File that `tegrastats --logfile` appends to: its zones, rails and GPU load are shown where
    `/sys` has none, as in a container. `budget.temperature_c` and `budget.power_w` go by `/sys`
    alone"""


class Settings(_Section, frozen=True, kw_only=True):
    """The whole file."""

    bundle: Path
    """The `.edge` file that answers"""
    state: Path
    """Folder in which learning is kept; made if it is missing. Only its parent must exist"""
    trust: tuple[Given, ...] = ()
    """Public keys, as text (`ed25519:...`) or files: the bundle must be signed by one of them.
    Needed, unless unsigned bundles are accepted"""
    unsigned: Literal["refuse", "accept"] = "refuse"
    """`accept` takes a bundle of unknown origin; it is allowed only without `trust`"""
    runtime: Given = "auto"
    """What runs the graphs: a name from `edgeadapt runtimes`; or `auto`, each where its round trip
    is least, the CPU from the first moment"""
    precision: Precision = "float32"
    """What the encoder computes in: `float16` or `int8` where the bundle has it. Learning and
    adapting stay in float32"""
    policy: PolicySection = PolicySection()
    budget: BudgetSection = BudgetSection()
    keep: KeepSection = KeepSection()
    loop: LoopSection = LoopSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    telemetry: TelemetrySection = TelemetrySection()
    source: tuple[AnySource, ...] = ()
    sink: tuple[AnySink, ...] = ()

    @property
    def source_names(self) -> frozenset[str]:
        """What labels of sources are under."""
        return frozenset(source.name for source in self.source)


__all__ = [
    "AnySink",
    "AnySource",
    "BudgetSection",
    "ControlSection",
    "FolderSource",
    "JsonlSink",
    "KeepSection",
    "LoopSection",
    "MetricsSection",
    "MqttSink",
    "MqttSource",
    "NpzSource",
    "PolicySection",
    "SensorSource",
    "SequenceSource",
    "Settings",
    "TelemetrySection",
    "VideoSource",
]
