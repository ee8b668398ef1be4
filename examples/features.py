"""Use an inner layer of a net as a description of a picture: which shipped digits look alike?

python examples/features.py
"""

import numpy as np

import nnconv

model = nnconv.load("zoo:lenet")
files = sorted(nnconv.zoo.find("lenet").pictures.glob("*.png"))
executable = nnconv.compile(model, outputs=["ip1"])

features = executable.run({"data": nnconv.picture(model, files)})["ip1"]
features /= np.linalg.norm(features, axis=1, keepdims=True)
likeness = features @ features.T - np.eye(len(files))
for file, row in zip(files, likeness, strict=True):
    nearest = row.argmax()
    print(f"{file.stem:6} is most like {files[nearest].stem:6} ({row[nearest]:.2f})")
