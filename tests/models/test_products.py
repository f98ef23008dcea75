import copy

import torch

from lightning_focal.models import products as module
from lightning_focal.models.products import onednn_linears


def test_layers_take_the_other_way_and_are_put_back(tiny, monkeypatch):
    model, seen = copy.deepcopy(tiny[0]), []
    expected = model(torch.tensor([[1, 2, 3]])).logits
    monkeypatch.setattr(module, "prefers_onednn", lambda: True)
    monkeypatch.setattr(module, "linear", lambda *a: seen.append(1) or torch.nn.functional.linear(*a))
    with onednn_linears(model, but=model.lm_head):
        with onednn_linears(model):  # one in another adds what was left out
            torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, expected)
        model(torch.tensor([[1, 2, 3]]))
    linears = sum(type(m) is torch.nn.Linear for m in model.modules())
    assert len(seen) == linears + linears - 1
    assert not any("forward" in m.__dict__ for m in model.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16), onednn_linears(model):
        assert not any("forward" in m.__dict__ for m in model.modules())


def test_nothing_happens_where_it_is_not_preferred(tiny, monkeypatch):
    monkeypatch.setattr(module, "prefers_onednn", lambda: False)
    with onednn_linears(tiny[0]):
        assert not any("forward" in m.__dict__ for m in tiny[0].modules())
