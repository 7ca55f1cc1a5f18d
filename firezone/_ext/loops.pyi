from firezone._ext.pipeline import Pipeline

def run_up(pipeline: Pipeline, worker: int = 0, busy_poll: int = 0) -> int:
    """Run a worker's loop from TUN to UDP until `Pipeline.stop()`; 0, or the errno that ended it.

    `busy_poll` is for how many ns it looks for work before it sleeps, while work comes that fast.
    Needs no GIL. ValueError unless the worker's descriptors are attached.
    """

def run_down(pipeline: Pipeline, worker: int = 0, busy_poll: int = 0) -> int:
    """The same from UDP to TUN."""
