"""Layer types that exist although no rule here reads them yet, and where they come from.

A type that is neither here nor among the rules is most likely a slip of the pen.
"""

from __future__ import annotations

_FORKS = {
    "BVLC Caffe": "HDF5Output Python",
    "SSD": "AnnotatedData DetectionEvaluate DetectionOutput MultiBoxLoss Normalize PriorBox "
    "SmoothL1Loss VideoData",
    "Faster R-CNN": "Proposal ROIAlign ROIPooling",
    "R-FCN": "PSROIPooling DeformableConvolution",
    "SENet": "Axpy",
    "ShuffleNet": "ShuffleChannel ChannelShuffle",
    "SegNet": "BN DenseImageData",
    "SegNet and YOLO forks": "Upsample",
    "DeepLab and PSPNet": "Interp",
    "YOLO forks": "Reorg RegionLoss Yolov3 YoloDetectionOutput Yolov3DetectionOutput HardSigmoid",
    "C3D": "Convolution3D Pooling3D VolumeData",
    "caffe-face": "CenterLoss",
    "FlowNet 2": "Correlation FlowWarp Resample",
    "OCR forks": "CTCLoss WarpCTC Reverse Transpose",
}

KNOWN: dict[str, str] = {name: fork for fork, names in _FORKS.items() for name in names.split()}
