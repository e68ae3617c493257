//! Colours. A config's hue is its instruction's, its lightness its tile's size, so that configs which are alike look alike and
//! those who see no hues still see tiles grow. Colours are computed in OKLCH, where equal steps look equal.

use crate::model::Mma;
use serde_json::Value;

/// The hue of each kind of instruction in degrees: far apart for all common kinds of colour blindness.
const HUES: [(&str, f64); 5] =
    [("wgmma", 250.0), ("mma_sync", 70.0), ("mma_sync_tma", 150.0), ("tcgen05", 320.0), ("simt", 215.0)];
/// Of what names no instruction.
const OTHER_HUE: f64 = 290.0;
/// Lightness of the smallest and the largest tile.
const LIGHTNESS: [f64; 2] = [0.91, 0.47];
/// Colourfulness: as much as all hues have at these lightnesses on any screen.
const CHROMA: f64 = 0.105;
/// By so many degrees, either way, the hues of configs differ that differ in neither instruction nor tile.
const SHIFT: f64 = 14.0;

/// Text on light fills, and on dark ones.
const DARK: &str = "#14171a";
pub(super) const LIGHT: &str = "#ffffff";

/// A fill and the colour of text on it, as hex.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Paint {
    pub(super) fill: String,
    pub(super) text: &'static str,
}

/// The hue of what a template names as its instruction.
pub(super) fn hue(mma: Option<&str>) -> f64 {
    HUES.iter().find(|(name, _)| Some(*name) == mma).map_or(OTHER_HUE, |(_, hue)| *hue)
}

/// A point's colour on white and on black.
pub(super) fn of_mma(mma: Option<Mma>) -> String {
    hex(0.64, 0.14, hue(mma.map(Mma::name)))
}

/// The paint of a config: `tile` tells how large its tile is among those shown (0…1), `nth` which of `count` it is of those that
/// share instruction and tile.
pub(super) fn of_config(mma: Option<&str>, tile: f64, nth: usize, count: usize) -> Paint {
    let lightness = LIGHTNESS[0] + tile.clamp(0.0, 1.0) * (LIGHTNESS[1] - LIGHTNESS[0]);
    let along = if count > 1 { nth as f64 / (count - 1) as f64 * 2.0 - 1.0 } else { 0.0 };
    let text = if lightness > 0.6 { DARK } else { LIGHT };
    Paint { fill: hex(lightness, CHROMA, hue(mma) + along * SHIFT), text }
}

/// How large a template's tile is: the product of its block sizes.
pub(super) fn tile(template: &serde_json::Map<String, Value>) -> f64 {
    let sizes = template.get("block_sizes").and_then(Value::as_array).into_iter().flatten();
    sizes.filter_map(Value::as_f64).product::<f64>().max(1.0)
}

/// A colour of OKLCH as sRGB: Björn Ottosson's matrices.
fn hex(lightness: f64, chroma: f64, hue_degrees: f64) -> String {
    let (sin, cos) = hue_degrees.to_radians().sin_cos();
    let (a, b) = (chroma * cos, chroma * sin);
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    let linear = [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ];
    let byte = |value: f64| {
        let value = value.clamp(0.0, 1.0);
        let encoded = if value <= 0.003_130_8 { 12.92 * value } else { 1.055 * value.powf(1.0 / 2.4) - 0.055 };
        (encoded * 255.0).round() as u8
    };
    let [red, green, blue] = linear.map(byte);
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance, as WCAG defines it.
    fn luminance(hex: &str) -> f64 {
        let channel = |place: usize| {
            let value = f64::from(u8::from_str_radix(&hex[place..place + 2], 16).unwrap()) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
    }

    #[test]
    fn white_grey_and_black_come_out_as_they_are() {
        assert_eq!([hex(1.0, 0.0, 0.0), hex(0.0, 0.0, 0.0)], ["#ffffff", "#000000"]);
        assert_eq!(hex(0.5999, 0.0, 123.0), "#808080");
    }

    #[test]
    fn text_stands_out_from_every_fill() {
        for (mma, _) in HUES {
            for tile in 0..=20 {
                for nth in 0..3 {
                    let paint = of_config(Some(mma), f64::from(tile) / 20.0, nth, 3);
                    let (one, other) = (luminance(&paint.fill), luminance(paint.text));
                    let contrast = (one.max(other) + 0.05) / (one.min(other) + 0.05);
                    assert!(contrast >= 4.0, "{mma} {tile}: {paint:?} {contrast}");
                }
            }
        }
    }

    #[test]
    fn configs_of_one_tile_are_told_apart_and_tiles_by_their_lightness() {
        let fill = |mma, tile, nth| of_config(Some(mma), tile, nth, 4).fill;
        let all: std::collections::BTreeSet<_> = (0..4).map(|nth| fill("wgmma", 0.5, nth)).collect();
        assert_eq!(all.len(), 4);
        assert!(luminance(&fill("wgmma", 0.0, 0)) > luminance(&fill("wgmma", 1.0, 0)) * 3.0);
    }
}
