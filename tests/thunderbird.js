// What Thunderbird is told to do, by the calls its own windows make. Each script of tests/thunderbird.py runs after these lines.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const { FileUtils } = ChromeUtils.importESModule("resource://gre/modules/FileUtils.sys.mjs");
const main = Services.wm.getMostRecentWindow("mail:3pane");
const msgWindow = main?.msgWindow;
const server = MailServices.accounts.getIncomingServer("server1");
const flag = Ci.nsMsgFolderFlags;

const later = (ms) => new Promise((done) => main.setTimeout(done, ms));

async function until(what, true_) {
  for (let turn = 0; turn < 600; turn++) {
    const found = await true_();
    if (found) {
      return found;
    }
    await later(50);
  }
  throw new Error(`waited in vain for ${what}`);
}

// A listener to URLs, copies and streams in one; `done` is kept when it stops with success.
class Done {
  QueryInterface = ChromeUtils.generateQI([
    "nsIUrlListener", "nsIMsgCopyServiceListener", "nsIStreamListener", "nsIRequestObserver", "nsIMsgSearchNotify",
  ]);
  hits = [];
  text = "";
  constructor() {
    this.done = new Promise((kept, broken) => {
      this.end = (status, what) =>
        Components.isSuccessCode(status) ? kept(this) : broken(new Error(`${what}: ${status.toString(16)}`));
    });
  }
  OnStartRunningUrl() {}
  OnStopRunningUrl(url, status) { this.end(status, url?.spec); }
  onStartCopy() {}
  onProgress() {}
  setMessageKey() {}
  getMessageId() { return null; }
  onStopCopy(status) { this.end(status, "copy"); }
  onStartRequest() {}
  onDataAvailable(_request, stream, _offset, count) {
    const binary = Cc["@mozilla.org/binaryinputstream;1"].createInstance(Ci.nsIBinaryInputStream);
    binary.setInputStream(stream);
    this.text += binary.readBytes(count);
  }
  onStopRequest(_request, status) { this.end(status, "stream"); }
  onSearchHit(header) { this.hits.push(header.messageKey); }
  onSearchDone(status) { this.end(status, "search"); }
  onNewSearch() {}
}

async function waited(start) {
  const listener = new Done();
  start(listener);
  return listener.done;
}

const folders = (under = server.rootFolder) => [...under.descendants];
const pathOf = (folder) => {
  const names = [];
  for (let at = folder; !at.isServer; at = at.parent) {
    names.unshift(at.name);
  }
  return names.join("/");
};
const find = (path) => folders().find((folder) => pathOf(folder) == path);
const imap = (path) => {
  const folder = find(path);
  if (!folder) {
    throw new Error(`no folder ${path}: ${folders().map(pathOf)}`);
  }
  return folder.QueryInterface(Ci.nsIMsgImapMailFolder);
};
const headers = (path, ...subjects) => {
  const all = [...imap(path).messages];
  return subjects.length ? subjects.map((one) => {
    const header = all.find((each) => each.mime2DecodedSubject == one);
    if (!header) {
      throw new Error(`no "${one}" in ${path}: ${all.map((each) => each.mime2DecodedSubject)}`);
    }
    return header;
  }) : all;
};
const update = (path) => waited((l) => imap(path).updateFolderWithListener(msgWindow, l));
const copy = (from, to, isMove, ...subjects) =>
  waited((l) => MailServices.copy.copyMessages(imap(from), headers(from, ...subjects), imap(to), isMove, l, msgWindow, true));
const body = (path, subject) => {
  const uri = imap(path).getUriForMsg(headers(path, subject)[0]);
  return waited((l) => MailServices.messageServiceFromURI(uri).streamMessage(uri, l, msgWindow, null, false, "", false));
};
const seen = (path) => headers(path).map((each) => [
  each.mime2DecodedSubject, each.isRead, each.isFlagged, !!(each.flags & Ci.nsMsgMessageFlags.Replied),
  each.getStringProperty("keywords"),
]);
const search = (path, ...terms) => waited((l) => {
  const session = Cc["@mozilla.org/messenger/searchSession;1"].createInstance(Ci.nsIMsgSearchSession);
  session.addScopeTerm(Ci.nsMsgSearchScope.onlineMail, imap(path));
  for (const [attrib, op, word] of terms) {
    const term = session.createTerm();
    term.attrib = Ci.nsMsgSearchAttrib[attrib];
    term.op = Ci.nsMsgSearchOp[op];
    const value = term.value;
    value.attrib = term.attrib;
    if (typeof word == "number") {
      value[attrib == "Date" ? "date" : attrib == "Size" ? "size" : "status"] = word;
    } else {
      value.str = word;
    }
    term.value = value;
    term.booleanAnd = true;
    session.appendTerm(term);
  }
  session.registerListener(l);
  session.search(msgWindow);
});
const file = async (name, text) => {
  const where = new FileUtils.File(PathUtils.join(PathUtils.tempDir, name));
  await IOUtils.writeUTF8(where.path, text);
  return where;
};
async function make(parent, name) {
  parent.createSubfolder(name, msgWindow);
  await until(name, () => find(parent.isServer ? name : `${pathOf(parent)}/${name}`));
}
async function draft(subject, old) {
  const fields = `From: ann@home.example\r\nSubject: ${subject}\r\nMessage-ID: <${subject}@home.example>\r\n`;
  const text = await file("draft.eml", `${fields}\r\nGrüße\r\n`);
  const before = old ? headers("Drafts", old)[0] : null;
  await waited((l) => MailServices.copy.copyFileMessage(
    text, imap("Drafts"), before, true, Ci.nsMsgMessageFlags.Read, "", l, msgWindow));
}
const local = (name) => MailServices.accounts.localFoldersServer.rootFolder.getChildNamed(name);
const offline = Cc["@mozilla.org/messenger/offline-manager;1"].getService(Ci.nsIMsgOfflineManager);

// Passwords for both servers, and any certificate will do.
async function trust(user, password) {
  Cc["@mozilla.org/security/certoverride;1"]
    .getService(Ci.nsICertOverrideService)
    .setDisableAllSecurityChecksAndLetAttackersInterceptMyData(true);
  for (const kind of [server.localStoreType, "smtp"]) {
    const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
    login.init(`${kind}://127.0.0.1`, null, `${kind}://127.0.0.1`, user, password, "", "");
    if (!(await Services.logins.searchLoginsAsync({ origin: login.origin })).length) {
      await Services.logins.addLoginAsync(login);
    }
  }
  server.password = password; // it opens no connection for its list of folders before it knows one
}

// Sends a whole message by SMTP and keeps it in Sent, as the compose window does once it has written the file.
async function send(to, subject, text) {
  const identity = MailServices.accounts.allIdentities[0];
  identity.fccFolderURI = imap("Sent").URI;
  const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
  Object.assign(fields, { from: identity.email, to, subject, messageId: "<sent-1@home.example>" });
  const source = await file("sent.eml", text);
  const listener = new Done();
  Object.assign(listener, {
    QueryInterface: ChromeUtils.generateQI(["nsIMsgSendListener", "nsIMsgCopyServiceListener"]),
    onStartSending() {}, onSendProgress() {}, onStatus() {}, onGetDraftFolderURI() {},
    onStopSending(_id, status) { Components.isSuccessCode(status) || listener.end(status, "sending"); },
    onSendNotPerformed(_id, status) { listener.end(status || Cr.NS_ERROR_FAILURE, "not sent"); },
    onTransportSecurityError(_id, status) { listener.end(status, "TLS"); },
  });
  Cc["@mozilla.org/messengercompose/send;1"].createInstance(Ci.nsIMsgSend).sendMessageFile(
    identity, "account1", fields, source, false, false, Ci.nsIMsgSend.nsMsgDeliverNow, null, listener, null, ""
  );
  await listener.done;
}

// What a person sees who opens the folder and then the message: its subject, and its text in the message pane.
async function shown(path, subject) {
  const tabs = main.document.getElementById("tabmail");
  tabs.currentAbout3Pane.displayFolder(imap(path));
  const row = await until(`${subject} in the list`, () => {
    const view = tabs.currentAbout3Pane.gDBView;
    for (let at = 0; at < (view?.rowCount ?? 0); at++) {
      if (view.getMsgHdrAt(at).mime2DecodedSubject == subject) {
        return { at };
      }
    }
    return null;
  });
  tabs.currentAbout3Pane.threadTree.selectedIndex = row.at;
  return until(`${subject} to be shown`, () => {
    const about = tabs.currentAboutMessage;
    const pane = about?.getMessagePaneBrowser()?.contentDocument?.body;
    return about?.gMessage?.mime2DecodedSubject == subject && about.msgLoaded && pane?.textContent.trim();
  });
}
