//! What the clients of a run do: programs by name, as many clients and as many operations as are asked for.

use crate::workload::{Program, Spec};

/// Milliseconds that a call may take. Less than most outages, so that clients go on and few calls are open at a time; more than an
/// election takes.
const TIMEOUT_MS: u64 = 4_000;

/// Programs by their names, or all of them.
///
/// # Errors
/// There is none of this name.
pub fn programs(names: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for name in names {
        if name == "all" {
            all.extend(Program::NAMES.map(str::to_owned));
        } else if Program::by_name(name).is_some() {
            all.push(name.clone());
        } else {
            let names = Program::NAMES.join(", ");
            return Err(format!("there is no workload \"{name}\": {names}, or all"));
        }
    }
    Ok(all)
}

/// These programs with about so many clients that ask about so often in a second, all together. Answers that take long make it less.
///
/// # Errors
/// As [`programs`].
pub fn spec(names: &[String], clients: u32, rate: u32) -> Result<Spec, String> {
    let names = programs(names)?;
    let each = (clients / names.len().max(1) as u32).max(1);
    // All clients pause alike, so that their number decides each program's share.
    let pause_us = u64::from(each) * names.len() as u64 * 1_000_000 / u64::from(rate.max(1));
    let programs = names.iter().filter_map(|name| Program::by_name(name));
    Ok(Spec {
        programs: programs.map(|program| sized(program, each, pause_us)).collect(),
        timeout_ms: TIMEOUT_MS,
    })
}

fn sized(mut program: Program, clients: u32, pause: u64) -> Program {
    match &mut program {
        Program::Register(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::SetList(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Counter(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Bank(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Watch(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Consumer(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Session(one) => {
            (one.others, one.pause_us) = (clients / 3, pause);
            one.sessions = clients - one.others;
        }
        Program::Lease(one) => (one.clients, one.pause_us) = (clients, pause),
        Program::Variety(one) => (one.clients, one.pause_us) = (clients, pause),
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn clients_and_rate_are_shared_among_programs() {
        let spec = spec(&names("register,session"), 10, 1_000).unwrap();
        let [Program::Register(register), Program::Session(session)] = &spec.programs[..] else {
            panic!("{spec:?}")
        };
        assert_eq!((register.clients, register.pause_us), (5, 10_000));
        assert_eq!(
            (session.sessions, session.others, session.pause_us),
            (4, 1, 10_000)
        );
    }

    #[test]
    fn all_is_every_program_and_others_are_refused() {
        assert_eq!(
            spec(&names("all"), 1, 1).unwrap().programs.len(),
            Program::NAMES.len()
        );
        let error = spec(&names("bank,blank"), 1, 1).unwrap_err();
        assert!(
            error.contains("\"blank\"") && error.contains("set_list"),
            "{error}"
        );
    }
}
