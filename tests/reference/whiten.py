"""Reference values for src/layers/whiten: the filters by numpy in float64, from images that both sides compute.

Prints the values in the tests of that folder. Needs numpy: python tests/reference/whiten.py
"""
import numpy as np

COUNT, SIDE, CHOSEN = 8, 9, [0, 1, 2, 4, 6]
# The tests' are f32.
SCALE = np.float32([0.016, 0.015, 0.017]).astype(np.float64)
SHIFT = np.float32([-1.9, -1.8, -1.6]).astype(np.float64)

i = np.arange(COUNT * 3 * SIDE * SIDE, dtype=np.uint64)
pixels = ((i // 5) % 97 * 2 + ((i * 2654435761 % 2**32) >> 27)).astype(np.float64).reshape(COUNT, 3, SIDE, SIDE)
images = pixels[CHOSEN] * SCALE.reshape(1, 3, 1, 1) + SHIFT.reshape(1, 3, 1, 1)
windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(2, 3))
patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 12)
values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
print("values", ", ".join(f"{v:.10}" for v in values))
for value, vector in zip(values, vectors.T):
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    print("[" + ", ".join(f"{v:.7f}" for v in vector / np.sqrt(value + 5e-4)) + "],")
