//! Chooses the planted bug of this process, see [`kvsvr_core::mutants`]. Only with the feature `mutants`.

use kvsvr_core::mutants;
pub use kvsvr_core::mutants::{Mutant, choose, choose_none};

use crate::error::{Code, Error, Result};

/// Names the one to choose.
pub const VARIABLE: &str = "KVSVR_MUTANT";

/// Chooses what [`VARIABLE`] names, for the whole process; nothing if it is not set or empty. For what runs by itself: whoever plays a
/// cluster in one process chooses by [`mutants::choose`].
///
/// # Errors
/// There is none of this name: a definite error that lists all.
pub fn choose_from_environment() -> Result<()> {
    let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
        return Ok(());
    };
    let chosen = mutants::choose(&name.to_string_lossy())
        .map_err(|unknown| Error::definite(Code::Invalid, format!("{VARIABLE}: {unknown}")))?;
    tracing::warn!(
        mutant = chosen.name,
        "THIS PROCESS HAS A PLANTED BUG: {}",
        chosen.breaks
    );
    Ok(())
}
