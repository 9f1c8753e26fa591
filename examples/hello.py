"""The smallest flow with a choice in it: two nodes, two hooks; `python examples/hello.py Ada`."""

import sys

from pocoflow import Flow, Node, Store


class Greet(Node):
    def prep(self, store: Store) -> str:
        return str(store["name"])

    def exec(self, name: str) -> str:
        return f"Hello, {name}!"

    def post(self, store: Store, prep: str, greeting: str) -> str:
        store["greeting"] = greeting
        return "shout" if prep.isupper() else "done"  # an action without an edge ends the run


class Shout(Node):
    def exec(self, _: None) -> str:
        return "!!"

    def post(self, store: Store, _prep: None, marks: str) -> None:
        store["greeting"] += marks


def build_flow() -> Flow:
    greet, shout = Greet(name="greet"), Shout(name="shout")
    greet.then("shout", shout)
    return Flow(start=greet, flow_name="hello")


flow = build_flow()
flow.on("node_end", lambda name, action, *_: print(f"{name} -> {action}"))
flow.on("flow_end", lambda steps, store: print(f"{store['greeting']} ({steps} steps)"))

if __name__ == "__main__":
    flow.run(Store({"name": sys.argv[1] if len(sys.argv) > 1 else "WORLD", "greeting": ""}))
