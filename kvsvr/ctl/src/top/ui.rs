//! What the operator has chosen, and what keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Rows that Page Up and Page Down move by.
const PAGE: usize = 10;

/// What the operator has chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ui {
    /// The table that keys act on: 0 the nodes, 1 the shards.
    pub chosen: usize,
    /// The column that each table is sorted by.
    pub sort: [usize; 2],
    /// The first row of each table that is seen.
    pub top: [usize; 2],
}

/// What of the tables is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The columns.
    pub columns: [Vec<usize>; 2],
    /// The greatest first row of each: so far it can be scrolled.
    pub last_top: [usize; 2],
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The end.
    Quit,
    /// A new frame.
    Draw,
    /// Nothing.
    Nothing,
}

impl Ui {
    /// Does what a key asks for. `seen`: what the last frame showed.
    pub fn key(&mut self, key: KeyEvent, seen: &Seen) -> Act {
        if key.kind == KeyEventKind::Release {
            return Act::Nothing;
        }
        let top = self.top[self.chosen];
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Act::Quit,
            KeyCode::Char('q' | 'Q') => return Act::Quit,
            KeyCode::Tab | KeyCode::BackTab | KeyCode::Left | KeyCode::Right => self.chosen = 1 - self.chosen,
            KeyCode::Char('s') => self.sort_by_next(seen),
            KeyCode::Up => self.scroll(top.saturating_sub(1), seen),
            KeyCode::Down => self.scroll(top + 1, seen),
            KeyCode::PageUp => self.scroll(top.saturating_sub(PAGE), seen),
            KeyCode::PageDown => self.scroll(top + PAGE, seen),
            KeyCode::Home => self.scroll(0, seen),
            KeyCode::End => self.scroll(usize::MAX, seen),
            _ => return Act::Nothing,
        }
        Act::Draw
    }

    /// The next of the columns that are seen, the first after the last.
    fn sort_by_next(&mut self, seen: &Seen) {
        let columns = &seen.columns[self.chosen];
        let now = self.sort[self.chosen];
        let next = columns.iter().find(|column| **column > now).or(columns.first());
        self.sort[self.chosen] = next.copied().unwrap_or(now);
    }

    fn scroll(&mut self, to: usize, seen: &Seen) {
        self.top[self.chosen] = to.min(seen.last_top[self.chosen]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(ui: &mut Ui, code: KeyCode) -> Act {
        let seen = Seen {
            columns: [vec![0, 2, 5], vec![0, 1]],
            last_top: [3, 0],
        };
        ui.key(KeyEvent::new(code, KeyModifiers::NONE), &seen)
    }

    #[test]
    fn q_and_ctrl_c_quit() {
        let mut ui = Ui::default();
        assert_eq!(press(&mut ui, KeyCode::Char('q')), Act::Quit);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(ui.key(ctrl_c, &Seen::default()), Act::Quit);
        assert_eq!(press(&mut ui, KeyCode::Char('c')), Act::Nothing);
        assert_eq!(ui, Ui::default());
    }

    #[test]
    fn a_key_acts_when_it_goes_down_only() {
        let up = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(Ui::default().key(up, &Seen::default()), Act::Nothing);
    }

    #[test]
    fn tab_and_arrows_choose_the_table() {
        let mut ui = Ui::default();
        for (code, chosen) in [
            (KeyCode::Tab, 1),
            (KeyCode::BackTab, 0),
            (KeyCode::Right, 1),
            (KeyCode::Left, 0),
        ] {
            assert_eq!(press(&mut ui, code), Act::Draw);
            assert_eq!(ui.chosen, chosen, "{code:?}");
        }
    }

    #[test]
    fn s_sorts_the_chosen_table_by_the_next_column_that_is_seen() {
        let mut ui = Ui::default();
        let sorts: Vec<usize> = (0..4)
            .map(|_| {
                press(&mut ui, KeyCode::Char('s'));
                ui.sort[0]
            })
            .collect();
        assert_eq!(sorts, [2, 5, 0, 2]);
        press(&mut ui, KeyCode::Tab);
        press(&mut ui, KeyCode::Char('s'));
        assert_eq!(ui.sort, [2, 1]);
        assert_eq!(ui.key(KeyCode::Char('s').into(), &Seen::default()), Act::Draw);
        assert_eq!(ui.sort, [2, 1], "nothing is seen");
    }

    #[test]
    fn scrolling_ends_with_the_table() {
        let mut ui = Ui::default();
        for (code, top) in [
            (KeyCode::Up, 0),
            (KeyCode::Down, 1),
            (KeyCode::PageDown, 3),
            (KeyCode::Down, 3),
            (KeyCode::Up, 2),
            (KeyCode::Home, 0),
            (KeyCode::End, 3),
            (KeyCode::PageUp, 0),
        ] {
            press(&mut ui, code);
            assert_eq!(ui.top[0], top, "{code:?}");
        }
        press(&mut ui, KeyCode::Tab);
        press(&mut ui, KeyCode::Down);
        assert_eq!(ui.top, [0, 0], "all of it is seen");
    }
}
