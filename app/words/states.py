"""Words of a run's states and labels."""

from __future__ import annotations

DISTURBED = "The machine was disturbed while some runs were served; see Served below."


DISTURBED_RATES = (
    "The machine was disturbed while some rates were served; the table says which, their runs say by what."
)
"""What a comparison and a search for capacity warn of."""


DRAWN_ANEW = (
    "Each repeat asked requests of its own, drawn from another seed; within a repeat every variant was asked the same. "
    "So the intervals hold for requests like these, not for these alone."
)
"""What stands beside the result of such a comparison."""


STATES = {
    "queued": ("Waiting", "The device is busy with another run; this one starts by itself."),
    "starting": ("Starting", "The engine process is starting."),
    "loading": ("Loading", "The engine is loading the model."),
    "running": ("Running", "The engine is serving the requests."),
    "finished": ("Finished", "Every request was served."),
    "failed": ("Failed", "The engine ended the run because of an error."),
    "cancelled": ("Cancelled", "The run was cancelled; what it had done is kept."),
    "crashed": ("Crashed", "The engine process ended before the run was done; what it had written is kept."),
}
"""Title and one sentence for each state a run can be in."""


EXPERIMENT_STATES = {
    "running": ("Running", "Its runs are served one after the other."),
    "paused": ("Stopped", "It was stopped; what is done is kept, and it can go on."),
    "finished": ("Finished", "Every run of it is over."),
    "failed": ("Failed", "One of its runs could not be served."),
}
"""The same for an experiment."""


LABELS = {
    "random weights": "The model's weights are random: the speed is real, the text is noise.",
    "simulated": "Times come from a model of the machine, not from this machine.",
    "disturbed": "Other processes or the device itself disturbed this run, so its times say less; Setup says by what.",
    "served to clients": "Clients asked while it ran, so no other run was asked the same; figures of two sessions are "
    "not paired.",
    "foreign": "Another server answered. The engine's settings are not the server's, and nothing is known of single "
    "steps that it does not tell.",
    "aggregated": "Only sums over all requests are known, as the other engine tells them, not which request did what.",
    "engine's clock": "Each request's latencies are the other engine's own, as its spans tell them; of everything else "
    "only sums are known.",
    "client's clock": "Times are those of the client, which asked when the scenario said and waited from then on.",
    "shared device": "It was served beside another run on the same device, so times of both say less.",
    "warm prefix cache": "Requests found in the prefix cache what earlier ones of other clients had left there.",
    "unfinished": "The run ended before every request was served.",
    "telemetry incomplete": "Some rows were not recorded; figures drawn from them are incomplete.",
    "telemetry damaged": "Rows that were recorded are missing or changed on disk; figures drawn from them are "
    "incomplete.",
    "status unreadable": "The file that says how the run went cannot be read; what it recorded is kept.",
}
"""What the labels that never leave a run mean; a technique's own are its panel's."""
