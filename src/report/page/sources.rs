//! Footnotes: where each figure is from.

use maud::{Markup, html};

/// The footnotes so far.
#[derive(Default)]
pub(super) struct Sources {
    notes: Vec<String>,
}

impl Sources {
    /// The mark of a source, which leads to its footnote. One that was cited before keeps its number.
    pub(super) fn cite(&mut self, note: &Markup) -> Markup {
        let text = note.0.clone();
        let place = self.notes.iter().position(|known| *known == text).unwrap_or_else(|| {
            self.notes.push(text);
            self.notes.len() - 1
        });
        html! { sup { a class="cite" href={ "#source-" (place + 1) } { (place + 1) } } }
    }

    /// The footnotes, and what holds for all of them.
    pub(super) fn list(&self) -> Markup {
        html! {
            section id="sources" {
                h2 { "Sources" }
                ol class="sources" {
                    @for (place, note) in self.notes.iter().enumerate() {
                        li id={ "source-" (place + 1) } { (maud::PreEscaped(note)) }
                    }
                }
                p class="note" {
                    "A time is what one launch takes with a cold L2, as the sampling protocol in the documents says. "
                    "A regret or slowdown is one config's time over "
                    "the best one's, so that +5 % means 1.05 times as long. ± is half of a 95 % interval."
                }
            }
        }
    }
}
