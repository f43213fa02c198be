"""Models of the tests: a small transformer of our own, and Llama and GPT-2 of transformers with random weights."""
import torch
import torch.nn as nn
import torch.nn.functional as F

TOKENS, LENGTH = 97, 24


class Layer(nn.Module):
    """Widths that no number of ranks divides, so that shards are padded."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 3 * width + 1), nn.Linear(3 * width + 1, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.attention_in(self.before_attention(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (query @ key.transpose(-1, -2)).masked_fill(hidden, float("-inf")) * (width // self.heads)**-0.5
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        x = x + self.attention_out(mixed)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.before_mlp(x))))


class Small(nn.Module):

    def __init__(self, width=32, layers=2, heads=4, tokens=TOKENS, length=LENGTH):
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.place
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(self.last(x)).float().flatten(0, 1), targets.flatten())


class FromTransformers(nn.Module):

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens, targets):
        logits = self.model(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def make(name, width, layers):
    if name == "small":
        return Small(width, layers)
    import transformers
    if name == "llama":
        config = transformers.LlamaConfig(vocab_size=TOKENS, hidden_size=width, intermediate_size=2 * width + 1,
                                          num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
                                          max_position_embeddings=LENGTH, attn_implementation="eager")
        return FromTransformers(transformers.LlamaForCausalLM(config))
    config = transformers.GPT2Config(vocab_size=TOKENS, n_embd=width, n_layer=layers, n_head=4, n_positions=LENGTH,
                                     attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, attn_implementation="eager")
    return FromTransformers(transformers.GPT2LMHeadModel(config))
