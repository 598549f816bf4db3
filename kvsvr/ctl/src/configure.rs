//! `kvctl config`: settings of the cluster, which change while it runs. (Those of a node: `kvsvr config print`.)

use clap::{Args, Subcommand};
use kvsvr_client::proto::configure_response::Setting;
use serde_json::{Value, json};

use crate::{
    context::Context,
    failure::{self, Failure},
    output::Field,
};

/// `kvctl config`.
#[derive(Subcommand, Clone, Debug)]
pub enum ConfigCommand {
    /// All settings
    List,
    /// One setting
    Get(GetArgs),
    /// Set one
    Set(SetArgs),
}

/// `kvctl config get`.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// The setting
    pub name: String,
}

/// `kvctl config set`.
#[derive(Args, Clone, Debug)]
pub struct SetArgs {
    /// The setting
    pub name: String,
    /// Its value [default: the setting's own default]
    #[arg(default_value = "", hide_default_value = true)]
    pub value: String,
}

/// Runs a config command.
pub async fn configure(context: &mut Context, command: &ConfigCommand) -> Result<(), Failure> {
    let (name, value) = match command {
        ConfigCommand::List | ConfigCommand::Get(_) => ("", ""),
        ConfigCommand::Set(args) => (args.name.as_str(), args.value.as_str()),
    };
    let settings = context.client()?.configure(name, value).await?.settings;
    match command {
        ConfigCommand::List => list(context, &settings),
        ConfigCommand::Get(GetArgs { name }) | ConfigCommand::Set(SetArgs { name, .. }) => {
            let found = settings.iter().find(|setting| setting.name == *name);
            let found = found.ok_or_else(|| {
                let names: Vec<&str> = settings.iter().map(|setting| setting.name.as_str()).collect();
                let text = format!("there is no setting {name}; settings are {}", names.join(", "));
                Failure::new(failure::NOT_FOUND, text)
            })?;
            context.print(format!("{} = {}", found.name, found.value), as_json(found))
        }
    }
}

fn as_json(setting: &Setting) -> Value {
    json!({
        "name": setting.name, "value": setting.value, "default": setting.default, "what": setting.what,
    })
}

fn list(context: &mut Context, settings: &[Setting]) -> Result<(), Failure> {
    if context.out.is_json() {
        let settings: Vec<Value> = settings.iter().map(as_json).collect();
        return Ok(context.out.json(&json!({ "settings": settings }))?);
    }
    let rows = settings
        .iter()
        .map(|setting| {
            vec![
                Field::text(setting.name.clone()),
                Field::text(setting.value.clone()),
                Field::text(setting.default.clone()),
                Field::text(setting.what.clone()),
            ]
        })
        .collect();
    Ok(context
        .out
        .table(&["SETTING", "VALUE", "DEFAULT", "WHAT"], rows)?)
}
