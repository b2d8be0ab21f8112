"""Generation tokens in and out of the decoder (paper Sec. 3.2): pixels, or whatever their space holds.

B samples, P tokens of C numbers, D width.
"""

from torch import Tensor, nn

from rf_repro.maths.layers import Grid, RMSNorm, TimeEmbedding, sincos_2d, upper_left


class PixelTokens(nn.Module):
    """Pixel (or latent) patches in and out: linear embedding with 2D positions and time, linear head that predicts clean x.

    `grid`: patches a side of the largest image; positions of smaller ones are its upper left corner.
    """

    def __init__(self, width: int, token_dim: int, grid: int, additive_time: bool, norm_eps: float) -> None:
        super().__init__()
        self.grid: Grid = (grid, grid)
        self.additive_time = additive_time
        self.patch_in = nn.Linear(token_dim, width)
        self.position = nn.Parameter(sincos_2d(grid, width, extent=grid))
        self.time = TimeEmbedding(width)
        self.norm = RMSNorm(width, norm_eps)
        self.head = nn.Linear(width, token_dim)

    def embed(self, noisy: Tensor, time_BD: Tensor, grid: Grid | None = None) -> Tensor:
        """[B, P, C] -> [B, P, D]. `grid`: rows and columns of patches; None: of the largest image."""
        return self.place(self.patch_in(noisy.to(self.patch_in.weight.dtype)), time_BD, grid)

    def place(self, patches: Tensor, time_BD: Tensor, grid: Grid | None) -> Tensor:
        """As `embed`, from embedded patches [B, P, D]."""
        tokens = patches + upper_left(self.position, grid or self.grid)
        return tokens + time_BD[:, None] if self.additive_time else tokens

    def predict(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, P, D] -> predicted clean tokens, float32 [B, P, C]."""
        return self.head(self.norm(hidden)).float()
