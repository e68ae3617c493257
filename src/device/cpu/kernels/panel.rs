//! Products of small blocks: operands packed as f32 into panels that the inner loop reads in order, sums in tiles of
//! registers.

/// Columns of a register tile.
pub(super) const LANES: usize = 8;
/// Rows of a register tile. With [`LANES`] the sums take half of sixteen 4-wide registers, the fewest a 64-bit CPU has.
pub(super) const ROWS: usize = 4;

/// One operand of a block product, [`extent` × `depth`] with `depth` the dimension summed over: strips of `WIDTH`
/// neighbours along the extent, each strip's steps in order, padded with zeros to whole strips.
#[derive(Default)]
pub(super) struct Panel<const WIDTH: usize> {
    strips: Vec<[f32; WIDTH]>,
    depth: usize,
}

impl<const WIDTH: usize> Panel<WIDTH> {
    /// Makes it all zeros, of a new size.
    pub(super) fn reset(&mut self, extent: usize, depth: usize) {
        self.strips.clear();
        self.strips.resize(extent.div_ceil(WIDTH) * depth, [0.0; WIDTH]);
        self.depth = depth;
    }

    /// Packs the `depth` values at `index` of the extent.
    pub(super) fn pack_along(&mut self, index: usize, values: impl Iterator<Item = f32>) {
        let strip = self.strips.iter_mut().skip(index / WIDTH * self.depth);
        for (step, value) in strip.take(self.depth).zip(values) {
            step[index % WIDTH] = value;
        }
    }

    /// Packs the values of the whole extent at `step` of the depth.
    pub(super) fn pack_across<T: Copy>(&mut self, step: usize, values: &[T], decode: impl Fn(T) -> f32) {
        let (whole, rest) = values.as_chunks::<WIDTH>();
        let mut strips = self.strips.iter_mut().skip(step).step_by(self.depth);
        for (values, strip) in whole.iter().zip(strips.by_ref()) {
            *strip = values.map(&decode);
        }
        for (value, lane) in rest.iter().zip(strips.next().into_iter().flatten()) {
            *lane = decode(*value);
        }
    }

    /// Changes the values of the whole extent at `step` of the depth, by their places.
    pub(super) fn map_across(&mut self, step: usize, extent: usize, change: impl Fn(usize, f32) -> f32) {
        let strips = self.strips.iter_mut().skip(step).step_by(self.depth);
        for (index, value) in strips.flatten().take(extent).enumerate() {
            *value = change(index, *value);
        }
    }
}

/// The f32 sums of a block product, in register tiles of `R` rows by [`LANES`] columns.
pub(super) struct Sums<const R: usize> {
    tiles: Vec<[[f32; LANES]; R]>,
    tiles_across: usize,
}

impl<const R: usize> Sums<R> {
    /// Zeros for a block of `rows` × `columns`.
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let tiles_across = columns.div_ceil(LANES);
        Self { tiles: vec![[[0.0; LANES]; R]; rows.div_ceil(R) * tiles_across], tiles_across }
    }

    /// Adds the product of two panels of equal depth.
    pub(super) fn add_product(&mut self, left: &Panel<R>, right: &Panel<LANES>) {
        let bands = self.tiles.chunks_exact_mut(self.tiles_across);
        for (left_strip, band) in left.strips.chunks_exact(left.depth).zip(bands) {
            for (right_strip, tile) in right.strips.chunks_exact(right.depth).zip(band) {
                *tile = add_outer_products(*tile, left_strip, right_strip);
            }
        }
    }

    /// One row, padded to whole register tiles.
    pub(super) fn row(&self, index: usize) -> impl Iterator<Item = f32> {
        let band = self.tiles.iter().skip(index / R * self.tiles_across).take(self.tiles_across);
        band.flat_map(move |tile| tile[index % R])
    }

    /// Multiplies one row by `factor`.
    pub(super) fn scale_row(&mut self, index: usize, factor: f32) {
        let band = self.tiles.iter_mut().skip(index / R * self.tiles_across).take(self.tiles_across);
        for value in band.flat_map(|tile| &mut tile[index % R]) {
            *value *= factor;
        }
    }
}

/// The inner loop: `sums` plus the outer product of each step's `R` left and [`LANES`] right values.
fn add_outer_products<const R: usize>(
    mut sums: [[f32; LANES]; R],
    left: &[[f32; R]],
    right: &[[f32; LANES]],
) -> [[f32; LANES]; R] {
    for (left, right) in left.iter().zip(right) {
        for (sums, left) in sums.iter_mut().zip(left) {
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum += left * right;
            }
        }
    }
    sums
}
