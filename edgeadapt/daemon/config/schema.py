"""The settings of the daemon: one TOML file, checked to the last key, as frozen structs.

``docs/daemon_settings.md`` is written from the descriptions here: ``python -m
tools.daemon_settings_reference > docs/daemon_settings.md``.

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
from edgeadapt.daemon.messages import Drop
from edgeadapt.errors import RecipeError

Amount = Annotated[float, Meta(ge=0.001, le=1_000_000)]
Rate = Annotated[float, Meta(ge=0.001, le=100_000)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Port = Annotated[int, Meta(ge=1, lt=2**16)]
Name = Annotated[str, Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,63})?\Z")]
Text = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]*\Z", max_length=4096)]
Given = Annotated[str, Meta(pattern=r"^[^\x00-\x1f]+\Z", max_length=4096)]
BrokerHost = Annotated[Given, Meta(description="Where the broker is")]
BrokerPort = Annotated[Port, Meta(description="Of the broker; 8883 is usual with TLS")]
BrokerUser = Annotated[Text, Meta(description="Who logs in; without it nobody does")]
BrokerPassword = Annotated[Path | None, Meta(description="File with the password of `username`")]
BrokerTls = Annotated[bool, Meta(description="Encrypt, and check the broker's certificate")]
BrokerAuthority = Annotated[
    Path | None,
    Meta(
        description=(
            "Certificates of the authority that signed the broker's; by default those of the system"
        )
    ),
]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Unknown keys are errors: a typo must not silently leave a default in place."""


class PolicySection(_Section, frozen=True, kw_only=True):
    """What learning may do."""

    adapt: Annotated[
        AdaptMode | None,
        Meta(
            description=(
                "`act` corrects answers under a shifted condition, `advise` only recognises it and"
                " asks, `off` does neither. It can lower what the bundle earned, never raise it;"
                " without it the bundle says"
            )
        ),
    ] = None
    new_classes: Annotated[
        Literal["refuse", "add"],
        Meta(
            description=(
                "What a label with an unknown name does: it is refused, or it adds the class"
            )
        ),
    ] = "refuse"
    questions_per_day: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None,
        Meta(
            description="Most questions in 24 hours, over all streams; without it the bundle says"
        ),
    ] = None
    routing: Annotated[
        Literal["signature", "hypervector"],
        Meta(
            description=(
                "How samples find back to a condition that is known: by its signature, or by"
                " hypervectors"
            )
        ),
    ] = "signature"
    quiet_questions_per_day: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description=(
                "Of these, questions that are asked although nothing seems wrong; half of them"
                " measure the accuracy"
            ),
        ),
    ] = 6
    trusted_sources: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "Sources whose labels are a person's word: they are not held for contradicting the"
                " model, but still vetoed if they would cost accuracy"
            )
        ),
    ] = ()


class BudgetSection(_Section, frozen=True, kw_only=True):
    """What learning may cost. What does not fit waits; labels are always learned, as long as the
    day's writes last.
    """

    busy_fraction: Annotated[
        Annotated[float, Meta(ge=0.001, le=1)],
        Meta(description="Share of the time, over ten seconds, that may go into adaptation"),
    ] = 0.2
    memory_mib: Annotated[
        Amount,
        Meta(
            description=(
                "The tensors, pools and waiting samples that the bundle declares must fit, or it is"
                " not opened"
            )
        ),
    ] = 256.0
    write_mib_per_day: Annotated[
        Amount,
        Meta(
            description=(
                "What the state folder may write to the disk in 24 hours; the last fifth is kept"
                " for labels"
            )
        ),
    ] = 512.0
    temperature_c: Annotated[
        Annotated[float, Meta(gt=0, le=200)] | None,
        Meta(
            description=(
                "Learning pauses while the machine is hotter than this, in degrees Celsius, where"
                " that can be measured"
            )
        ),
    ] = None
    power_w: Annotated[
        Amount | None,
        Meta(
            description=(
                "Learning pauses while the machine draws more than this, in watts, where that can"
                " be measured"
            )
        ),
    ] = None
    p99_ratio: Annotated[
        Annotated[float, Meta(ge=1, le=1000)],
        Meta(
            description=(
                "Learning pauses while the slowest hundredth of the answers takes longer than this"
                " multiple of what it takes while nothing is learned, and that is no chance"
            )
        ),
    ] = 1.5


class KeepSection(_Section, frozen=True, kw_only=True):
    """How long things stay, and how many of them."""

    pending_s: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000_000)],
        Meta(
            description=(
                "Seconds that a sample waits for its label after it was answered; kept in memory"
                " only"
            )
        ),
    ] = 3600.0
    features_days: Annotated[
        Annotated[float, Meta(ge=0, le=1_000_000)],
        Meta(
            description=(
                "Days that the features of a labelled sample are kept, so that it can be forgotten"
                " alone"
            )
        ),
    ] = 30.0
    rows: Annotated[
        Annotated[int, Meta(ge=100, le=1_000_000_000)],
        Meta(description="Most labelled samples kept; beyond it the oldest go"),
    ] = 100_000
    commits: Annotated[
        Annotated[int, Meta(ge=100, le=1_000_000_000)],
        Meta(
            description=(
                "Most changes kept one by one; beyond it the oldest are folded together, and no"
                " rollback reaches them"
            )
        ),
    ] = 10_000
    selection: Annotated[
        Literal["oldest", "adaptive"],
        Meta(
            description=(
                "Which labelled samples go beyond `rows`: the oldest, or those that adaptive data"
                " selection leaves out"
            )
        ),
    ] = "oldest"


class LoopSection(_Section, frozen=True, kw_only=True):
    """How samples are taken."""

    batch: Annotated[
        Annotated[int, Meta(ge=1, le=4096)],
        Meta(description="Most samples of a stream that are answered together"),
    ] = 1
    queue: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)],
        Meta(description="Most samples that wait for an answer, over all streams"),
    ] = 256
    drop: Annotated[
        Drop,
        Meta(
            description=(
                "What a full queue does: forget the sample that waited longest, refuse the one that"
                " comes, or let its source wait; what is dropped is counted"
            )
        ),
    ] = "oldest"
    rate_hz: Annotated[
        Rate | None,
        Meta(
            description=(
                "Samples a second that must be answered: those that cannot be answered in time are"
                " answered without adapting. Without it every sample is observed"
            )
        ),
    ] = None
    checkpoint_s: Annotated[
        Annotated[float, Meta(ge=1, le=1_000_000)],
        Meta(description="Seconds between two checkpoints; one is also taken at the end"),
    ] = 300.0


class ControlSection(_Section, frozen=True, kw_only=True):
    """The HTTP interface that `edgeadapt ctl`, the status page and your own programs use."""

    listen: Annotated[
        Annotated[
            str,
            Meta(
                pattern=r"^(|unix:[^\x00-\x1f]+|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})\Z"
            ),
        ],
        Meta(
            description=(
                '`"HOST:PORT"` (port 0: any that is free), `"unix:/run/edgeadapt.sock"`, or `""`'
                " for none: no HTTP, no `edgeadapt ctl`, no page, no metrics"
            )
        ),
    ] = "127.0.0.1:8420"
    token_file: Annotated[
        Path | None,
        Meta(
            description=(
                "File with the bearer token that every request must carry; this, or `users_file`,"
                " is needed where `listen` is neither a loopback address nor a unix socket. At"
                " least 16 characters there. Who shows it may do everything"
            )
        ),
    ] = None
    users_file: Annotated[
        Path | None,
        Meta(
            description=(
                "File of named users, each with a token and a role: `view` looks and asks for"
                " answers, `label` also observes and labels, `admin` everything. `edgeadapt users`"
                " writes it. Read again on SIGHUP"
            )
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        Meta(
            description=(
                "PEM file with the certificate for https, and those between it and a trusted"
                " authority's. Read again on SIGHUP"
            )
        ),
    ] = None
    key: Annotated[
        Path | None,
        Meta(
            description="PEM file with the unencrypted key of `certificate`. Read again on SIGHUP"
        ),
    ] = None
    max_body_mib: Annotated[
        Annotated[float, Meta(ge=0.001, le=4096)],
        Meta(description="Largest body of a request that is read"),
    ] = 16.0
    timeout_s: Annotated[
        Annotated[float, Meta(ge=0.01, le=3600)],
        Meta(description="Seconds that a request may wait for its answer"),
    ] = 10.0

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

    enabled: Annotated[
        bool,
        Meta(description="Whether they are offered; without the control interface they never are"),
    ] = True


class TelemetrySection(_Section, frozen=True, kw_only=True):
    """What the machine says of itself, beside what `/sys` shows."""

    tegrastats: Annotated[
        Path | None,
        Meta(
            description=(
                "File that `tegrastats --logfile` appends to: its zones, rails and GPU load are"
                " shown where `/sys` has none, as in a container. `budget.temperature_c` and"
                " `budget.power_w` go by `/sys` alone"
            )
        ),
    ] = None


class _Source(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    name: Annotated[
        Name,
        Meta(
            description=(
                "What its samples and labels are told apart by; by default the stream's name"
            )
        ),
    ] = ""
    stream: Annotated[
        Name,
        Meta(
            description=(
                "Whose condition its samples show: each stream has its own window; by default the"
                " source's name, or else its kind"
            )
        ),
    ] = ""


class FolderSource(_Source, frozen=True, kw_only=True, tag="folder"):
    """A folder that is watched: every image that appears in it is a sample."""

    path: Annotated[Path, Meta(description="The folder; files in folders inside it count too")]
    pattern: Annotated[Given, Meta(description="Which files, as a shell pattern of their name")] = (
        "*"
    )
    label_from: Annotated[
        Literal["none", "parent"],
        Meta(description="`parent`: the folder that a file lies in is its label"),
    ] = "none"
    existing: Annotated[
        Literal["new", "take", "skip"],
        Meta(
            description=(
                "What lies in the folder at a start: `new` takes what was not taken before the"
                " restart, `take` takes everything again, `skip` nothing, not even what came while"
                " the daemon was down"
            )
        ),
    ] = "new"


class SequenceSource(_Source, frozen=True, kw_only=True, tag="sequence"):
    """A folder of images, played once in the order of their names."""

    path: Annotated[Path, Meta(description="The folder")]
    rate_hz: Annotated[Rate, Meta(description="Images a second")]
    pattern: Annotated[Given, Meta(description="Which files, as a shell pattern of their name")] = (
        "*"
    )


class NpzSource(_Source, frozen=True, kw_only=True, tag="npz"):
    """An `.npz` with an array x of inputs, images or features, played at a set rate."""

    path: Annotated[Path, Meta(description="The file")]
    rate_hz: Annotated[Rate, Meta(description="Samples a second")]
    loop: Annotated[bool, Meta(description="Begin again at its end")] = False
    labels: Annotated[
        bool,
        Meta(
            description=(
                "Its array y holds labels, class names or ids, which come with their samples"
            )
        ),
    ] = False


class VideoSource(_Source, frozen=True, kw_only=True, tag="video"):
    """A camera, a video file or a network stream: exactly one of `file`, `url` and `pipeline`.
    Needs the extra `video`.
    """

    file: Annotated[
        Path | None,
        Meta(
            description=(
                "A video file, or a camera: its device, such as `/dev/video0`, or its number,"
                " `camera:0`"
            )
        ),
    ] = None
    url: Annotated[
        Annotated[
            str, Meta(pattern=r"^([A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20]+)?\Z", max_length=4096)
        ],
        Meta(description="A network stream, such as `rtsp://camera/1`"),
    ] = ""
    pipeline: Annotated[
        Text,
        Meta(
            description=(
                "A GStreamer pipeline that ends in raw video; the system's `gst-launch-1.0` runs it"
            )
        ),
    ] = ""
    every: Annotated[Count, Meta(description="Take every n-th frame")] = 1
    real_time: Annotated[
        bool,
        Meta(description="Play a file as fast as it was filmed; else as fast as it is answered"),
    ] = False


class MqttSource(_Source, frozen=True, kw_only=True, tag="mqtt"):
    """A topic of an MQTT broker: every message is a sample."""

    host: BrokerHost
    topic: Annotated[Given, Meta(description="Topic filter; `+` and `#` may stand in it")]
    format: Annotated[
        Literal["image", "json", "msgpack"],
        Meta(
            description=(
                "What a message holds: an encoded image, or features or an input as JSON or msgpack"
            )
        ),
    ] = "image"
    port: BrokerPort = 1883
    username: BrokerUser = ""
    password_file: BrokerPassword = None
    tls: BrokerTls = False
    ca_file: BrokerAuthority = None
    client_id: Annotated[
        Text,
        Meta(
            description=(
                "Under which the broker keeps messages for this source; by default one that follows"
                " from machine and name"
            )
        ),
    ] = ""
    clean_start: Annotated[
        bool, Meta(description="Forget what the broker kept while nobody listened")
    ] = False
    labels_topic: Annotated[
        Text, Meta(description='Topic filter of labels: `{"sample": NAME or ID, "label": CLASS}`')
    ] = ""


class SensorSource(_Source, frozen=True, kw_only=True, tag="sensor"):
    """A signal from a file, cut into windows: each window is a sample."""

    path: Annotated[
        Path,
        Meta(
            description=(
                "A `.csv` with one row a reading and one column a channel, or an `.npz` with an"
                " array x of that shape"
            )
        ),
    ]
    window: Annotated[Count, Meta(description="Readings in a window")]
    rate_hz: Annotated[Rate, Meta(description="Readings a second")]
    hop: Annotated[
        Count | None,
        Meta(
            description=(
                "Readings from the start of one window to that of the next; by default a whole"
                " window"
            )
        ),
    ] = None


class _Sink(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    name: Annotated[
        Name,
        Meta(description="How it is called in the log and in the metrics; by default its kind"),
    ] = ""


class JsonlSink(_Sink, frozen=True, kw_only=True, tag="jsonl"):
    """A file with one JSON object a line. A full file is renamed to `NAME.1`, that one to `NAME.2`,
    and so on.
    """

    path: Annotated[Path, Meta(description="The file")]
    max_mib: Annotated[
        Annotated[float, Meta(ge=0.001, le=1_000_000)],
        Meta(description="Size at which a new file is begun"),
    ] = 16.0
    keep: Annotated[
        Annotated[int, Meta(ge=0, le=10_000)], Meta(description="How many full files are kept")
    ] = 4


class MqttSink(_Sink, frozen=True, kw_only=True, tag="mqtt"):
    """A topic of an MQTT broker: one JSON object a message."""

    host: BrokerHost
    topic: Annotated[
        Given, Meta(description="Topic; `{stream}` in it is the sample's stream; no `+` or `#`")
    ]
    port: BrokerPort = 1883
    username: BrokerUser = ""
    password_file: BrokerPassword = None
    tls: BrokerTls = False
    ca_file: BrokerAuthority = None
    client_id: Annotated[
        Text,
        Meta(
            description=(
                "By which the broker knows this sink; by default one that follows from machine and"
                " name"
            )
        ),
    ] = ""
    status_topic: Annotated[
        Text,
        Meta(
            description=(
                "Retained `online` or `offline`; by default `topic` without the level `{stream}`,"
                " and `/status`"
            )
        ),
    ] = ""


AnySource = FolderSource | SequenceSource | NpzSource | VideoSource | MqttSource | SensorSource
AnySink = JsonlSink | MqttSink


class Settings(_Section, frozen=True, kw_only=True):
    """The whole file."""

    bundle: Annotated[Path, Meta(description="The `.edge` file that answers")]
    state: Annotated[
        Path,
        Meta(
            description=(
                "Folder in which learning is kept; made if it is missing. Only its parent must"
                " exist"
            )
        ),
    ]
    trust: Annotated[
        tuple[Given, ...],
        Meta(
            description=(
                "Public keys, as text (`ed25519:...`) or files: the bundle must be signed by one of"
                " them. Needed, unless unsigned bundles are accepted"
            )
        ),
    ] = ()
    unsigned: Annotated[
        Literal["refuse", "accept"],
        Meta(
            description=(
                "`accept` takes a bundle of unknown origin; it is allowed only without `trust`"
            )
        ),
    ] = "refuse"
    runtime: Annotated[
        Given,
        Meta(
            description=(
                "What runs the graphs: a name from `edgeadapt runtimes`; or `auto`, each where its"
                " round trip is least, the CPU from the first moment"
            )
        ),
    ] = "auto"
    precision: Annotated[
        Precision,
        Meta(
            description=(
                "What the encoder computes in: `float16` or `int8` where the bundle has it."
                " Learning and adapting stay in float32"
            )
        ),
    ] = "float32"
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


def read_secret(path: Path) -> str:
    """The token or password in a file, without the line's end.

    Raises:
        RecipeError: it cannot be read, or does not hold one line of printable ASCII. The message
            does not show it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(4097).decode("ascii").strip("\r\n")
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: the secret in it cannot be read:"
            f" {getattr(error, 'strerror', None) or 'it is not ASCII'}"
        ) from None
    if not text or not text.isprintable() or text.strip() != text or len(text) > 4096:
        raise RecipeError(
            f"{path}: holds no secret: one line of 1 to 4096 printable characters is expected, with"
            " no space at either end"
        )
    return text


def kind_of(section: AnySource | AnySink) -> str:
    """The ``kind`` that it was written with."""
    return str(section.__struct_config__.tag)


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
    "kind_of",
    "read_secret",
]
