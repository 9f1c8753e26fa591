"""The flow of the chaos suite as it was in another version: its first nodes had other names."""

from __future__ import annotations

from pocoflow import Flow
from tests.chaos.flows import Add

three, four = Add("three", 3, retry_delay=1.0), Add("four", 4)
three.then("again", three).then("enough", four)
addition = Flow(three, flow_name="addition")
