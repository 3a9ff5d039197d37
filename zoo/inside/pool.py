"""A numerical job in a pool of processes: inverses of matrices, each of which must give the identity again."""
import multiprocessing

import numpy

import exhibit


def invert(seed):
    matrix = numpy.random.default_rng(seed).random((160, 160)) + 160 * numpy.eye(160)
    error = numpy.abs(matrix @ numpy.linalg.inv(matrix) - numpy.eye(160)).max()
    return seed, float(error), float(matrix.sum())


if __name__ == "__main__":
    pool = multiprocessing.Pool(4)
    sums = {}

    def step(at):
        results = pool.map(invert, range(at % 5 * 8, at % 5 * 8 + 8))
        for seed, error, total in results:
            exhibit.want(error < 1e-9, f"seed {seed}: off by {error}")
            exhibit.want(sums.setdefault(seed, total) == total, f"seed {seed}: another sum")

    exhibit.run(step, 0, lambda _: pool.terminate())
