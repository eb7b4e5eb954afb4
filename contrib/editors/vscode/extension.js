// Starts the language server of elasticity policies.
const vscode = require("vscode");

let client;

async function activate() {
  let LanguageClient;
  try {
    ({ LanguageClient } = require("vscode-languageclient/node"));
  } catch {
    vscode.window.showWarningMessage("EPL: run `npm install` in the extension's folder for more than highlighting.");
    return;
  }
  const command = vscode.workspace.getConfiguration("epl").get("server");
  client = new LanguageClient("epl", "EPL", { command, args: ["lsp"] }, { documentSelector: [{ language: "epl" }] });
  await client.start();
}

function deactivate() {
  return client?.stop();
}

module.exports = { activate, deactivate };
