//! The terminal while it is ours, and as it was afterwards: also after an error, and when the process panics.

use std::{
    io::{self, Stdout, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{
        Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
    },
};
use ratatui::{Terminal, backend::CrosstermBackend};

use super::frame::{Canvas, Frame};

static OURS: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The terminal, given back when this is dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    color: bool,
    // After the terminal, which shows the cursor when it is dropped.
    _guard: Guard,
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once, however often it is called.
fn give_back() {
    if OURS.swap(false, Ordering::SeqCst) {
        // If the terminal is gone there is nothing to give back.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is none, or is gone.
    pub fn open(color: bool) -> io::Result<Self> {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                before(info);
            }));
        });
        OURS.store(true, Ordering::SeqCst);
        let guard = Guard;
        enable_raw_mode()?;
        // Not every terminal has a second screen, which would be empty.
        execute!(stdout(), EnterAlternateScreen, Clear(ClearType::All), Hide)?;
        Ok(Self {
            terminal: Terminal::new(CrosstermBackend::new(stdout()))?,
            color,
            _guard: guard,
        })
    }

    /// Shows a frame, which is made for the terminal's size.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn draw(&mut self, make: impl FnOnce(&Canvas) -> Frame) -> io::Result<Frame> {
        // Of a size that cannot be told, as when the terminal goes, nothing is drawn.
        self.terminal.autoresize()?;
        let area = self.terminal.get_frame().area();
        let frame = make(&Canvas {
            width: usize::from(area.width),
            height: Some(usize::from(area.height)),
            color: self.color,
        });
        self.terminal.draw(|target| {
            let area = target.area();
            for (y, line) in (0..area.height).zip(&frame.lines) {
                target.buffer_mut().set_line(0, y, line, area.width);
            }
        })?;
        Ok(frame)
    }
}
