"Answers to the exercises of 13_learner"
import math

import torch

from miniai.callbacks import Callback, CancelEpochException, CancelFitException, CancelStepException

def finder_rates(start, gamma, n): return [start*gamma**i for i in range(n)]

def warmup_cosine(steps, warm, lr):
    def rate(i):
        if i < warm: return lr*(i + 1)/warm
        done = (i + 1 - warm)/(steps - warm)                # from 0 to 1 on the way down
        return lr*(1 + math.cos(math.pi*done))/2
    return [rate(i) for i in range(steps)]

def finder_stop(losses, max_mult):
    smallest = math.inf
    for i, loss in enumerate(losses):
        if not math.isfinite(loss) or loss > max_mult*smallest: return i
        if loss < smallest: smallest = loss
    return len(losses)

def finder_choice(rates, losses):
    if len(losses) < 5: return 0.
    lowest = min(losses)
    return rates[losses.index(lowest)]/10 if lowest < .9*losses[0] else 0.

def smooth_losses(losses, beta):
    total, weight, out = 0., 0., []
    for loss in losses:
        total, weight = beta*total + loss, beta*weight + 1
        out.append(total/weight)
    return out

class MomentumCB(Callback):
    "Use, in each step, the gradient plus `mom` times what was used in the step before"
    def __init__(self, mom): self.mom = mom
    def before_fit(self, learn): self.used = [torch.zeros_like(p) for p in learn.model.parameters()]
    def after_backward(self, learn):
        for p, used in zip(learn.model.parameters(), self.used, strict=True):
            used.mul_(self.mom).add_(p.grad)
            p.grad.copy_(used)

class EpochLossCB(Callback):
    "Keep in `rows` a dictionary for each epoch: epoch, train_loss and valid_loss, means over all items"
    def before_fit(self, learn): self.rows = []
    def before_epoch(self, learn): self.total, self.count = 0., 0
    def after_batch(self, learn):
        n = len(learn.batch[0])
        self.total += learn.loss.item()*n
        self.count += n
    def after_epoch(self, learn):
        mean = self.total/self.count
        if learn.training: self.rows.append(dict(epoch=learn.epoch, train_loss=mean))
        else: self.rows[-1]['valid_loss'] = mean

class RateFinderCB(Callback):
    "Try rising learning rates until the loss explodes; then put the weights back"
    def __init__(self, gamma, max_mult): self.gamma, self.max_mult = gamma, max_mult
    def before_fit(self, learn):
        self.lrs, self.losses = [], []
        self.kept = [p.detach().clone() for p in learn.model.parameters()]
    def before_epoch(self, learn):
        if not learn.training: raise CancelEpochException()
    def after_batch(self, learn):
        loss = learn.loss.item()
        if self.losses and loss > self.max_mult*min(self.losses): raise CancelFitException()
        self.lrs.append(learn.opt.param_groups[0]['lr'])
        self.losses.append(loss)
        for group in learn.opt.param_groups: group['lr'] *= self.gamma
    @torch.no_grad()
    def cleanup_fit(self, learn):
        for p, kept in zip(learn.model.parameters(), self.kept, strict=True): p.copy_(kept)

class AccumulateCB(Callback):
    "Step once for every `n` batches, along the mean of their gradients; the last group of an epoch may be smaller"
    order = 10
    def __init__(self, n): self.n = n
    def after_loss(self, learn):
        first = learn.iter - learn.iter % self.n            # batch of the group
        if learn.training: learn.loss = learn.loss/min(self.n, len(learn.dl) - first)
    def after_backward(self, learn):
        done = learn.iter + 1
        if done % self.n and done < len(learn.dl): raise CancelStepException()
