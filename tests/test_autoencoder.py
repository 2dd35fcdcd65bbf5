import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from miniai.autoencoder import (
    autoencoder,
    blend,
    codes_of,
    deconv,
    dense_autoencoder,
    fit_redraw,
    nearest,
    pca_autoencoder,
    redraw_loss,
    show_redrawn,
    start_from,
)
from miniai.idx import load_raw
from miniai.testing import expect_error, test_close, test_eq

@pytest.fixture(autouse=True)
def one_thread():
    "The nets here are tiny"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

@pytest.fixture(scope='module')
def digits():
    "Training and validation images as floats, (n, 1, 28, 28)"
    raw = load_raw('digits')
    return tuple(torch.from_numpy(x).float()[:, None]/255 for x in (raw.x_train, raw.x_valid))

def images(*shape, seed=0): return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

def small(code=3, **kwargs): return autoencoder(code, **{'nfs': (2, 3), 'size': (8, 8), **kwargs})

# deconv

@given(ni=st.integers(1, 4), nf=st.integers(1, 4), ks=st.sampled_from([1, 3, 5]), h=st.integers(1, 6), w=st.integers(1, 6), n=st.integers(0, 3))
def test_deconv_is_repeat_then_convolve(ni, nf, ks, h, w, n):
    layer, x = deconv(ni, nf, ks).double(), images(n, ni, h, w).double().requires_grad_()
    weight, bias = layer[1].weight, layer[1].bias
    y = images(n, ni, h, w).double().requires_grad_()
    big = y.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(big, weight, bias, padding=ks//2).relu()
    out = layer(x)
    test_eq(out.shape, (n, nf, 2*h, 2*w))
    test_close(out, expected, 1e-12)
    for o in (out, expected): o.square().sum().backward()
    test_close(x.grad, y.grad, 1e-10)

@pytest.mark.parametrize('kwargs, kinds', [
    ({}, ['UpsamplingNearest2d', 'Conv2d', 'ReLU']), (dict(act=True), ['UpsamplingNearest2d', 'Conv2d', 'ReLU']),
    (dict(act=False), ['UpsamplingNearest2d', 'Conv2d']), (dict(act=None), ['UpsamplingNearest2d', 'Conv2d']),
    (dict(act=nn.SiLU, norm=nn.BatchNorm2d), ['UpsamplingNearest2d', 'Conv2d', 'BatchNorm2d', 'SiLU'])])
def test_deconv_layers(kwargs, kinds): test_eq([type(o).__name__ for o in deconv(2, 3, **kwargs)], kinds)

def test_deconv_signature_of_the_course():
    test_eq([type(o).__name__ for o in deconv(2, 3, 5, False)], ['UpsamplingNearest2d', 'Conv2d'])
    test_eq(deconv(2, 3, 5, False)[1].kernel_size, (5, 5))

def test_deconv_bias():
    test_eq(deconv(2, 3, bias=False)[1].bias is None, True)
    test_eq(deconv(2, 3, norm=nn.BatchNorm2d)[1].bias is None, True)
    test_eq(deconv(2, 3)[1].bias is None, False)

@pytest.mark.parametrize('ks', [2, 4])
def test_deconv_refuses_even_kernels(ks):
    with expect_error(ValueError, f'ks={ks}'): deconv(1, 1, ks)

# the nets

@given(code=st.integers(1, 9), depth=st.integers(1, 4), h=st.integers(1, 33), w=st.integers(1, 33), ni=st.integers(1, 3))
def test_autoencoder_gives_back_the_size(code, depth, h, w, ni):
    model, x = autoencoder(code, range(2, 2+depth), (h, w), ni).eval(), images(2, ni, h, w)
    with torch.no_grad():
        codes = model.encoder(x)
        test_eq(codes.shape, (2, code))
        test_eq(model(x).shape, x.shape)
        test_close(model(x), model.decoder(codes))
        _, _, ph, pw = model.encoder[0](x).shape
    step = 2**depth
    test_eq((ph, pw), (-(-h//step)*step, -(-w//step)*step))

def test_padding_and_cropping_cancel():
    model, x = autoencoder(nfs=(2, 3, 4), size=(27, 30)), images(1, 1, 27, 30)
    test_eq(model.decoder[-1](model.encoder[0](x)), x)

def test_autoencoder_of_fashion_size():
    model = autoencoder()
    test_eq(model.encoder(images(2, 1, 28, 28)).shape, (2, 98))
    test_eq(model.encoder[0](images(2, 1, 28, 28)).shape, (2, 1, 32, 32))
    kinds = [type(o) for o in autoencoder(act=nn.GELU, norm=None).modules()]
    test_eq((nn.GELU in kinds, nn.SiLU in kinds, nn.BatchNorm2d in kinds), (True, False, False))
    last = [m for m in model.decoder.modules() if not list(m.children())][-2:]
    test_eq([type(o).__name__ for o in last], ['Conv2d', 'ZeroPad2d'])      # pixels may have any value

@pytest.mark.parametrize('kwargs', [dict(nfs=()), dict(code=0)])
def test_autoencoder_refuses(kwargs):
    with expect_error(ValueError, 'at least one'): autoencoder(**kwargs)

def test_dense_autoencoder():
    model, x = dense_autoencoder(5, 7, (3, 4, 6), nn.ReLU), images(2, 3, 4, 6)
    test_eq(model.encoder(x).shape, (2, 5))
    test_eq(model(x).shape, x.shape)
    l1, l2, l3, l4 = (m for m in model.modules() if isinstance(m, nn.Linear))
    test_close(model(x), l4(l3(l2(l1(x.flatten(1)).relu())).relu()).reshape(x.shape))

def test_nets_travel_as_state(digits):
    x = digits[0][:50]
    a, b = (start_from(pca_autoencoder(x, 4), autoencoder(4, (2, 3))).eval() for _ in range(2))
    for p in a.parameters(): p.data += .01
    b.load_state_dict(a.state_dict())
    test_eq(a(x), b(x))

# principal components

@pytest.mark.parametrize('k', [1, 5, 16])
def test_pca_is_that_of_sklearn(digits, k):
    x, v = digits[0][:300, :, ::2, ::2], digits[1][:, :, ::2, ::2]      # 14 × 14
    judge = PCA(k, svd_solver='full').fit(x.flatten(1).double().numpy())
    model, flat = pca_autoencoder(x.double(), k), v.flatten(1).double().numpy()
    codes = judge.transform(flat)
    test_close(model.encoder(v.double()).abs(), np.abs(codes), 1e-6)    # a direction may point either way
    test_close(model(v.double()).flatten(1), judge.inverse_transform(codes), 1e-8)
    test_close(redraw_loss(pca_autoencoder(x, k), [v]), np.square(judge.inverse_transform(codes) - flat).mean(), 1e-6)

def test_pca_with_all_numbers_is_perfect():
    x = images(20, 2, 2, 3)
    test_close(pca_autoencoder(x, 12)(x), x)

def test_pca_beats_every_other_linear_pair():
    x = images(30, 1, 3, 3).double()
    best = redraw_loss(pca_autoencoder(x, 4), [x])
    for seed in range(5):
        model = pca_autoencoder(x, 4)
        torch.manual_seed(seed)
        for p in model.parameters(): p.data += .02*torch.randn_like(p)
        test_eq(redraw_loss(model, [x]) > best, True)

def test_pca_keeps_dtype_and_can_be_trained():
    x = images(20, 1, 3, 3).double()
    model = pca_autoencoder(x, 2)
    test_eq(model(x).dtype, torch.float64)
    test_eq(all(p.requires_grad and p.is_contiguous() for p in model.parameters()), True)

@pytest.mark.parametrize('code', [0, 10, -1])
def test_pca_refuses(code):
    with expect_error(ValueError, '1 to 9'): pca_autoencoder(images(20, 1, 3, 3), code)

@pytest.mark.parametrize('net', [lambda: autoencoder(4, (2, 3), (9, 9)), lambda: dense_autoencoder(4, 6, (1, 9, 9))])
def test_start_from_begins_as_its_base_and_leaves_it(net):
    x = images(12, 1, 9, 9)
    base = pca_autoencoder(x, 4)
    model = start_from(pca_autoencoder(x, 4), net())
    for mode in (True, False):
        model.train(mode)
        test_close(model.encoder(x), base.encoder(x))
        test_close(model(x), base(x))
    loss = fit_redraw(20, model, torch.optim.Adam(model.parameters(), 3e-3), x.split(4), [x], say=None)
    test_eq(loss < redraw_loss(base, [x]), True)

def test_start_from_trains_both_parts():
    x = images(12, 1, 9, 9)
    model = start_from(pca_autoencoder(x, 4), dense_autoencoder(4, 6, (1, 9, 9)))
    before = [p.detach().clone() for p in model.parameters()]
    fit_redraw(2, model, torch.optim.Adam(model.parameters(), 1e-2), [x], [x], say=None)
    test_eq([torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)], [False]*len(before))

def test_start_from_adds():
    x = images(12, 1, 9, 9)
    base, net = pca_autoencoder(x, 4), dense_autoencoder(4, 6, (1, 9, 9))
    model = start_from(base, net)
    for p in net.parameters(): p.data.normal_()
    codes = base.encoder(x) + net.encoder(x)
    test_close(model.encoder(x), codes)
    test_close(model(x), base.decoder(codes) + net.decoder(codes), 1e-4)

# loss and training

@pytest.mark.parametrize('dl', [[images(5, 1, 8, 8), images(2, 1, 8, 8)], [(images(7, 1, 8, 8), torch.zeros(7))], [[images(7, 1, 8, 8)]]])
def test_loss_is_the_mean_over_images(dl):
    model = small().eval()
    x = torch.cat([b if torch.is_tensor(b) else b[0] for b in dl])
    test_close(redraw_loss(model, dl), F.mse_loss(model(x), x), 1e-7)
    test_close(redraw_loss(model, dl, F.l1_loss), (model(x) - x).abs().mean(), 1e-6)

def test_loss_evaluates_without_training():
    model = small().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    redraw_loss(model, [images(5, 1, 8, 8)])
    test_eq(model.training, False)
    test_eq(model.state_dict(), before)
    test_eq(all(p.grad is None for p in model.parameters()), True)

def test_fit_takes_the_steps_of_a_plain_loop():
    xs, v = images(8, 1, 8, 8).split(4), images(3, 1, 8, 8, seed=1)
    models, losses = [], []
    for own in (True, False):
        torch.manual_seed(0)
        model = small()
        opt = torch.optim.SGD(model.parameters(), .5)
        sched = torch.optim.lr_scheduler.StepLR(opt, 1, .5)
        if own: losses.append(fit_redraw(2, model, opt, [(x, 'ignored') for x in xs], [v], sched=sched, say=None))
        else:
            for x in (*xs, *xs):
                opt.zero_grad()
                F.mse_loss(model.train()(x), x).backward()
                opt.step()
                sched.step()
            losses.append(F.mse_loss(model.eval()(v), v).item())
        models.append(model.state_dict())
    test_eq(models[0], models[1])
    test_close(losses[0], losses[1], 1e-7)

def test_fit_says_a_line_for_each_epoch(capsys):
    model, x = small(), images(4, 1, 8, 8)
    opt, lines = torch.optim.SGD(model.parameters(), .1), []
    loss = fit_redraw(3, model, opt, [x], [x], say=lines.append)
    test_eq(len(lines), 3)
    assert lines[-1].startswith('epoch 2: train loss ') and lines[-1].endswith(f'valid loss {loss:.5f}')
    fit_redraw(1, model, opt, [x], [x], say=None)
    test_eq(capsys.readouterr().out, '')
    test_eq(fit_redraw(0, model, opt, [x], [x]), redraw_loss(model, [x]))

def test_fit_takes_a_loader():
    model, ds = small(), TensorDataset(images(10, 1, 8, 8))
    opt = torch.optim.Adam(model.parameters(), 1e-2)
    first = redraw_loss(model, DataLoader(ds, 4))
    test_eq(fit_redraw(10, model, opt, DataLoader(ds, 5, shuffle=True), DataLoader(ds, 4), say=None) < first, True)

@pytest.mark.parametrize('batch, exc, contains', [
    (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), TypeError, 'torch.uint8'), (torch.zeros(0, 1, 8, 8), TypeError, '(0, 1, 8, 8)'),
    ({'image': 1}, TypeError, 'dict'), ((), TypeError, 'tuple'), (torch.zeros(2, 1, 7, 7), ValueError, 'came back as (2, 1, 8, 8)'),
    (torch.full((2, 1, 8, 8), float('nan')), FloatingPointError, 'nan')])
def test_bad_batches_are_refused_by_name(batch, exc, contains):
    model = small()
    opt = torch.optim.SGD(model.parameters(), .1)
    good = images(2, 1, 8, 8)
    with pytest.raises(exc) as e: redraw_loss(model, [good, batch])
    assert 'validation, batch 1' in str(e.value) and contains in str(e.value)
    with pytest.raises(exc) as e: fit_redraw(1, model, opt, [good, batch], [good], say=None)
    assert 'epoch 0, training, batch 1' in str(e.value)

def test_fit_refuses_what_would_be_in_vain():
    model, x = small(), images(2, 1, 8, 8)
    opt = torch.optim.SGD(model.parameters(), .1)
    with expect_error(ValueError, 'epochs must be'): fit_redraw(-1, model, opt, [x], [x])
    with expect_error(ValueError, 'no parameter of this model'): fit_redraw(1, small(), opt, [x], [x])
    with expect_error(ValueError, 'train_dl gives no batches'): fit_redraw(1, model, opt, [], [x])
    with expect_error(ValueError, 'validation: the loader gives no batches'): redraw_loss(model, [])
    with expect_error(ValueError, 'one number'): redraw_loss(model, [x], lambda a, b: a - b)

def test_digits_are_redrawn_better_than_by_pca(digits):
    x, v = digits
    torch.manual_seed(0)
    pca, net = pca_autoencoder(x, 16), dense_autoencoder(16, 128)
    model = start_from(pca_autoencoder(x, 16), net)
    dl = DataLoader(TensorDataset(x), 64, shuffle=True)
    loss = fit_redraw(4, model, torch.optim.Adam(model.parameters(), 1e-3), dl, [v], say=None)
    test_eq(loss < .9*redraw_loss(pca, [v]), True)

# looking and searching

def test_show_redrawn_draws_originals_above_copies():
    model, x = small(), images(3, 1, 8, 8)
    axs = show_redrawn(model, x)
    test_eq(len(axs), 6)
    test_eq(model.training, False)
    drawn = [ax.images[0].get_array() for ax in axs]
    test_close(np.stack(drawn[:3]), x[:, 0])
    test_close(np.stack(drawn[3:]), model(x)[:, 0].clamp(0, 1))
    plt.close('all')

@given(n=st.integers(2, 7), seed=st.integers(0, 5))
def test_blend_walks_straight(n, seed):
    torch.manual_seed(seed)
    model = small().train()
    a, b = images(2, 1, 8, 8, seed=seed)
    walk = blend(model, a, b, n)
    test_eq((model.training, walk.requires_grad, walk.shape), (False, False, (n, 1, 8, 8)))
    first, last = model.encoder(torch.stack([a, b]))
    for i in range(n):
        code = first*(n-1-i)/(n-1) + last*i/(n-1)
        test_close(walk[i], model.decoder(code[None])[0], 1e-5)

def test_blend_refuses():
    a = images(1, 8, 8)
    with expect_error(ValueError, 'n=1'): blend(small(), a, a, 1)
    with expect_error(ValueError, '(1, 4, 8)'): blend(small(), a, a[:, :4], 2)

@given(n=st.integers(1, 12), m=st.integers(0, 4), d=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_nearest_agrees_with_sorting_by_hand(n, m, d, seed, data):
    k = data.draw(st.integers(1, n))
    codes, query = images(n, d, seed=seed), images(m, d, seed=seed+1000)
    found = nearest(codes, query, k)
    test_eq(found.shape, (m, k))
    for q, row in zip(query, found, strict=True):
        dist = [sum((float(a) - float(b))**2 for a, b in zip(q, c, strict=True))**.5 for c in codes]
        test_close([dist[i] for i in row], sorted(dist)[:k], 1e-4)

def test_nearest_finds_itself_and_refuses():
    codes = images(6, 3)
    test_eq(nearest(codes, codes, 1)[:, 0], torch.arange(6))
    with expect_error(ValueError, '1 to 6'): nearest(codes, codes, 7)
    with expect_error(ValueError, '1 to 6'): nearest(codes, codes, 0)
    with expect_error(ValueError, 'one size'): nearest(codes, images(2, 4), 1)

@pytest.mark.parametrize('bs', [1, 3, 100])
def test_codes_of_is_the_encoder_in_parts(bs):
    model, x = small().train(), images(7, 1, 8, 8)
    codes = codes_of(model, x, bs)
    test_eq((model.training, codes.requires_grad), (False, False))
    test_close(codes, model.encoder(x))
