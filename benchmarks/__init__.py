"""Side-by-side benchmarks of trio_cancel and of what people write by hand: ``python -m benchmarks --help``.

One run starts one venue process and then one client process per measurement, in interleaved rounds, so that every
figure is compared only with figures of the same run on the same machine.
"""
