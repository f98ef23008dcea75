from lightning_focal.models.cache import cache_argument, why_not_cached, why_not_plain

from .architectures import make


def test_recurrent_states_can_be_repeated_but_are_not_plain():
    """Plain caches and windows: tests/models/test_architectures.py."""
    model, _ = make("lfm2")
    assert why_not_cached(model) is None
    assert why_not_plain(model) == "its cache has LinearAttentionLayer"


def test_a_state_that_is_no_cache_and_an_encoder_decoder_are_named():
    assert why_not_cached(make("rwkv")[0]) == "its forward takes neither cache nor past_key_values"
    model, _ = make("llama")
    model.config.is_encoder_decoder = True
    assert why_not_cached(model) == why_not_plain(model) == "it is an encoder-decoder"


def test_the_argument_is_told_from_the_signature():
    class Old:
        def forward(self, input_ids, past_key_values=None): ...

    class New:
        def forward(self, input_ids, cache=None): ...

    class Both:
        def forward(self, input_ids, past_key_values=None, cache=None): ...

    assert [cache_argument(kind()) for kind in (Old, New, Both)] == ["past_key_values", "cache", "cache"]
    assert cache_argument(make("llama")[0]) in ("past_key_values", "cache")
