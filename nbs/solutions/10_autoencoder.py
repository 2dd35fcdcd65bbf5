"Answers to the exercises of 10_autoencoder"
import torch
import torch.nn.functional as F

def upsample_repeat(x, scale):
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, scale, w, scale).reshape(n, c, h*scale, w*scale)

def kaiming_weights(noise): return noise*(2/noise[0].numel())**.5

def halving_pads(size, times):
    missing = -size % 2**times
    return missing//2, missing - missing//2

def deconv_forward(x, w, bias):
    larger = F.interpolate(x, scale_factor=2)
    return F.conv2d(larger, w, bias, padding=w.shape[2]//2).relu()

def pca_redraw(x, k):
    mean = x.mean(0)
    centered = x - mean
    axes = torch.linalg.eigh(centered.T @ centered)[1][:, -k:]              # (pixels, k); eigenvalues come in ascending order
    return centered @ axes @ axes.T + mean
