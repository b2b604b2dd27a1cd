<?php
// What a person does at Roundcube, by its own storage class (program/lib/Roundcube/rcube_imap.php), without a web server.
// php roundcube.php FOLDER-OF-ROUNDCUBE PORT USER PASSWORD: prints one JSON object of what it saw. Used by tests/peers/test_roundcube.py.
[, $folder, $port, $user, $password] = $argv;
define('INSTALL_PATH', rtrim($folder, '/') . '/');
error_reporting(E_ERROR);
require_once INSTALL_PATH . 'program/include/iniset.php';

$app = rcube::get_instance();
$saw = [];

// A new connection, as each request of the browser makes one.
function request($app, $port, $user, $password) {
    $imap = new rcube_imap();
    $imap->set_options(['auth_type' => null, 'timeout' => 30, 'ident' => ['name' => 'Roundcube', 'version' => RCUBE_VERSION], 'all_headers' => null]);
    if (!$imap->connect('127.0.0.1', $user, $password, (int) $port, null)) {
        throw new Exception('no connection: ' . $imap->get_error_str());
    }
    $imap->set_pagesize(50);
    return $imap;
}
function done($what, $name) {
    if ($what === false) {
        throw new Exception("$name was refused");
    }
    return $what;
}
function subjects($headers) {
    return array_values(array_map(fn($one) => rcube_mime::decode_header($one->subject), $headers));
}

try {
    // the first request: folders, then the list of INBOX
    $imap = request($app, $port, $user, $password);
    $saw['special'] = $imap->get_special_folders(true);
    $saw['folders'] = $imap->list_folders_subscribed('', '*', null, null, true);
    $saw['all'] = $imap->list_folders('', '*', null, null, true);
    $imap->set_folder('INBOX');
    $saw['count'] = $imap->count('INBOX', 'ALL', true);
    $saw['unseen'] = $imap->count('INBOX', 'UNSEEN', true);
    $saw['newest'] = subjects($imap->list_messages('INBOX', 1, 'date', 'DESC'));
    $saw['by subject'] = subjects($imap->list_messages('INBOX', 1, 'subject', 'ASC'));
    $imap->set_threading('REFERENCES');
    $saw['threads'] = count($imap->list_messages('INBOX', 1, 'date', 'DESC'));
    $imap->set_threading(false);
    $saw['status'] = $imap->folder_status('INBOX');
    $saw['quota'] = is_array($imap->get_quota('INBOX'));
    $imap->close();

    // a message is opened: header, structure, a part of it, its flag
    $imap = request($app, $port, $user, $password);
    $imap->set_folder('INBOX');
    $uid = $imap->search_once('INBOX', 'HEADER MESSAGE-ID greetings@shop.example')->get()[0];
    $message = $imap->get_message($uid, 'INBOX');
    $saw['subject'] = rcube_mime::decode_header($message->subject);
    $saw['parts'] = array_map(fn($part) => $part->mimetype, $message->structure->parts);
    $saw['text'] = $imap->get_message_part($uid, '1');
    $saw['attachment'] = bin2hex($imap->get_message_part($uid, '2'));
    done($imap->get_raw_body($uid), 'the source');
    done($imap->set_flag([$uid], 'SEEN', 'INBOX'), 'SEEN');
    done($imap->set_flag([1, 2], 'FLAGGED', 'INBOX'), 'FLAGGED');
    done($imap->set_flag([1], 'UNFLAGGED', 'INBOX'), 'UNFLAGGED');
    done($imap->set_flag([3], 'ANSWERED', 'INBOX'), 'ANSWERED');
    done($imap->set_flag([4], 'FORWARDED', 'INBOX'), 'FORWARDED');
    $imap->close();

    // a search, in the header and in the text, and its result sorted
    $imap = request($app, $port, $user, $password);
    $imap->set_folder('INBOX');
    $saw['found'] = $imap->search('INBOX', 'OR HEADER SUBJECT {6}' . "\r\n" . 'Grüß HEADER FROM nobody', 'UTF-8', 'date')->count_messages();
    $saw['in text'] = $imap->search('INBOX', 'TEXT {10}' . "\r\n" . 'Küsse aus', 'UTF-8', 'subject')->count_messages();
    $imap->set_search_set(null);
    $saw['searched all folders'] = $imap->search(['INBOX', 'Archive', 'Sent'], 'HEADER SUBJECT message', 'US-ASCII', 'date')->count_messages();
    $imap->set_search_set(null);
    $imap->close();

    // folders
    $imap = request($app, $port, $user, $password);
    done($imap->create_folder('Gr&APwA3w-e &- K&APw-sse', true), 'CREATE');
    done($imap->create_folder('Gr&APwA3w-e &- K&APw-sse/tief', true), 'CREATE below');
    done($imap->copy_message([2], 'Gr&APwA3w-e &- K&APw-sse/tief', 'INBOX'), 'COPY');
    done($imap->rename_folder('Gr&APwA3w-e &- K&APw-sse', 'Neu'), 'RENAME');
    done($imap->unsubscribe(['Neu/tief']), 'UNSUBSCRIBE');
    done($imap->subscribe(['Neu/tief']), 'SUBSCRIBE');
    $saw['in Neu'] = $imap->count('Neu/tief', 'ALL', true);
    $saw['info'] = $imap->folder_info('Neu/tief')['rights'] ?? null;
    done($imap->delete_folder('Neu/tief'), 'DELETE');
    done($imap->delete_folder('Neu'), 'DELETE');
    $imap->close();

    // moved, deleted, kept as sent and as draft; Trash is emptied
    $imap = request($app, $port, $user, $password);
    done($imap->move_message([5, 6], 'Archive', 'INBOX'), 'MOVE');
    done($imap->move_message([4], 'Trash', 'INBOX'), 'MOVE to Trash');
    $text = "From: ann@home.example\r\nTo: bob@home.example\r\nSubject: sent\r\nMessage-ID: <sent@home.example>\r\n\r\nHello\r\n";
    $saw['saved'] = done($imap->save_message('Sent', $text, '', false, ['SEEN']), 'APPEND');
    $saw['draft'] = done($imap->save_message('Drafts', str_replace('sent', 'draft', $text), '', false, ['SEEN', 'DRAFT']), 'APPEND');
    done($imap->delete_message([$saw['draft']], 'Drafts'), 'delete the draft');
    done($imap->clear_folder('Trash'), 'empty Trash');
    $imap->set_folder('INBOX');
    $saw['left'] = subjects($imap->list_messages('INBOX', 1, 'arrival', 'ASC'));
    $imap->close();
} catch (Throwable $error) {
    $saw['error'] = get_class($error) . ': ' . $error->getMessage() . ' at ' . basename($error->getFile()) . ':' . $error->getLine();
}
echo json_encode($saw, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE), "\n";
