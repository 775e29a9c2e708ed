"""The settings of sources and sinks: where samples come from, and where answers go. A string under
a key says what it means, and is shown in ``docs/daemon_settings.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgeadapt.daemon.config.value_types import Count, Given, Name, Port, Rate, Text

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


class _Source(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    name: Name = ""
    """What its samples and labels are told apart by; by default the stream's name"""
    stream: Name = ""
    """Whose condition its samples show: each stream has its own window; by default the source's
    name, or else its kind"""


class FolderSource(_Source, frozen=True, kw_only=True, tag="folder"):
    """A folder that is watched: every image that appears in it is a sample."""

    path: Path
    """The folder; files in folders inside it count too"""
    pattern: Given = "*"
    """Which files, as a shell pattern of their name"""
    label_from: Literal["none", "parent"] = "none"
    """`parent`: the folder that a file lies in is its label"""
    existing: Literal["new", "take", "skip"] = "new"
    """What lies in the folder at a start: `new` takes what was not taken before the restart, `take`
    takes everything again, `skip` nothing, not even what came while the daemon was down"""


class SequenceSource(_Source, frozen=True, kw_only=True, tag="sequence"):
    """A folder of images, played once in the order of their names."""

    path: Path
    """The folder"""
    rate_hz: Rate
    """Images a second"""
    pattern: Given = "*"
    """Which files, as a shell pattern of their name"""


class NpzSource(_Source, frozen=True, kw_only=True, tag="npz"):
    """An `.npz` with an array x of inputs, images or features, played at a set rate."""

    path: Path
    """The file"""
    rate_hz: Rate
    """Samples a second"""
    loop: bool = False
    """Begin again at its end"""
    labels: bool = False
    """Its array y holds labels, class names or ids, which come with their samples"""


class VideoSource(_Source, frozen=True, kw_only=True, tag="video"):
    """A camera, a video file or a network stream: exactly one of `file`, `url` and `pipeline`.
    Needs the extra `video`.
    """

    file: Path | None = None
    """A video file, or a camera: its device, such as `/dev/video0`, or its number, `camera:0`"""
    url: Annotated[
        str, Meta(pattern=r"^([A-Za-z][A-Za-z0-9+.-]*://[^\x00-\x20]+)?\Z", max_length=4096)
    ] = ""
    """A network stream, such as `rtsp://camera/1`"""
    pipeline: Text = ""
    """A GStreamer pipeline that ends in raw video; the system's `gst-launch-1.0` runs it"""
    every: Count = 1
    """Take every n-th frame"""
    real_time: bool = False
    """Play a file as fast as it was filmed; else as fast as it is answered"""


class MqttSource(_Source, frozen=True, kw_only=True, tag="mqtt"):
    """A topic of an MQTT broker: every message is a sample."""

    host: BrokerHost
    topic: Given
    """Topic filter; `+` and `#` may stand in it"""
    format: Literal["image", "json", "msgpack"] = "image"
    """What a message holds: an encoded image, or features or an input as JSON or msgpack"""
    port: BrokerPort = 1883
    username: BrokerUser = ""
    password_file: BrokerPassword = None
    tls: BrokerTls = False
    ca_file: BrokerAuthority = None
    client_id: Text = ""
    """Under which the broker keeps messages for this source; by default one that follows from
    machine and name"""
    clean_start: bool = False
    """Forget what the broker kept while nobody listened"""
    labels_topic: Text = ""
    """Topic filter of labels: `{"sample": NAME or ID, "label": CLASS}`"""


class SensorSource(_Source, frozen=True, kw_only=True, tag="sensor"):
    """A signal from a file, cut into windows: each window is a sample."""

    path: Path
    """A `.csv` with one row a reading and one column a channel, or an `.npz` with an array x of
    that shape"""
    window: Count
    """Readings in a window"""
    rate_hz: Rate
    """Readings a second"""
    hop: Count | None = None
    """Readings from the start of one window to that of the next; by default a whole window"""


class _Sink(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    name: Name = ""
    """How it is called in the log and in the metrics; by default its kind"""


class JsonlSink(_Sink, frozen=True, kw_only=True, tag="jsonl"):
    """A file with one JSON object a line. A full file is renamed to `NAME.1`, that one to `NAME.2`,
    and so on.
    """

    path: Path
    """The file"""
    max_mib: Annotated[float, Meta(ge=0.001, le=1_000_000)] = 16.0
    """Size at which a new file is begun"""
    keep: Annotated[int, Meta(ge=0, le=10_000)] = 4
    """How many full files are kept"""


class MqttSink(_Sink, frozen=True, kw_only=True, tag="mqtt"):
    """A topic of an MQTT broker: one JSON object a message."""

    host: BrokerHost
    topic: Given
    """Topic; `{stream}` in it is the sample's stream; no `+` or `#`"""
    port: BrokerPort = 1883
    username: BrokerUser = ""
    password_file: BrokerPassword = None
    tls: BrokerTls = False
    ca_file: BrokerAuthority = None
    client_id: Text = ""
    """By which the broker knows this sink; by default one that follows from machine and name"""
    status_topic: Text = ""
    """Retained `online` or `offline`; by default `topic` without the level `{stream}`, and
    `/status`"""


AnySource = FolderSource | SequenceSource | NpzSource | VideoSource | MqttSource | SensorSource
AnySink = JsonlSink | MqttSink


def kind_of(section: AnySource | AnySink) -> str:
    """The ``kind`` that it was written with."""
    return str(section.__struct_config__.tag)
