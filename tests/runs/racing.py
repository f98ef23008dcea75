"""Run in processes of its own: everybody claims folders at once."""


def claim(barrier, folder, count, queue):
    from lightning_focal.runs import run_folder

    barrier.wait(60)
    queue.put([run_folder(f"{folder}/run").name for _ in range(count)])
