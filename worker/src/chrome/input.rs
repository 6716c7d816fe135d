//! Pointer and keys: what a person would do, as the browser's own (trusted) events. Knows nothing of what comes of them.

use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::input::{
    DispatchKeyEventParams, DispatchKeyEventType, DispatchMouseEventParams, DispatchMouseEventType,
    InsertTextParams, MouseButton,
};
use tokio::time::Instant;

use super::driver::{Input, TabError};
use super::tab::ChromeTab;

/// The longest that one event may take to be received.
const RECEIVED_WITHIN: Duration = Duration::from_secs(10);
const DOING: &str = "it received input";
const ENTER: i64 = 13;
const SHIFT: i64 = 8;

/// Has the page receive it.
pub(super) async fn send(tab: &ChromeTab, input: &Input, deadline: Instant) -> Result<(), TabError> {
    match input {
        Input::Hover(x, y) => move_to(tab, *x, *y, deadline).await,
        Input::Click(x, y) => {
            move_to(tab, *x, *y, deadline).await?;
            for (kind, buttons) in
                [(DispatchMouseEventType::MousePressed, 1), (DispatchMouseEventType::MouseReleased, 0)]
            {
                let mut event = DispatchMouseEventParams::new(kind, *x, *y);
                event.button = Some(MouseButton::Left);
                event.buttons = Some(buttons);
                event.click_count = Some(1);
                tab.call(&event, soon(deadline), DOING).await?;
            }
            Ok(())
        }
        Input::Keys { text, delay } => {
            for (place, character) in text.chars().filter(|character| *character != '\r').enumerate() {
                if place > 0 && !delay.is_zero() {
                    tokio::time::sleep_until(deadline.min(Instant::now() + *delay)).await;
                }
                press(tab, character, deadline).await?;
            }
            Ok(())
        }
    }
}

async fn move_to(tab: &ChromeTab, x: f64, y: f64, deadline: Instant) -> Result<(), TabError> {
    let event = DispatchMouseEventParams::new(DispatchMouseEventType::MouseMoved, x, y);
    tab.call(&event, soon(deadline), DOING).await.map(|_| ())
}

async fn press(tab: &ChromeTab, character: char, deadline: Instant) -> Result<(), TabError> {
    // What is on no key of its own comes as from an input method.
    if !character.is_ascii() {
        tab.call(&InsertTextParams::new(character.to_string()), soon(deadline), DOING).await?;
        return Ok(());
    }
    let is_enter = character == '\n';
    let key = if is_enter { "Enter".to_owned() } else { character.to_string() };
    let code = if is_enter { ENTER } else { i64::from(u32::from(character.to_ascii_uppercase())) };
    for kind in [DispatchKeyEventType::KeyDown, DispatchKeyEventType::KeyUp] {
        let text = if is_enter { "\r".to_owned() } else { character.to_string() };
        let mut event = DispatchKeyEventParams::new(kind.clone());
        event.key = Some(key.clone());
        event.code = physical_key(character);
        event.modifiers = character.is_ascii_uppercase().then_some(SHIFT);
        // Of other characters the number is another key's.
        if is_enter || character.is_ascii_alphanumeric() || character == ' ' {
            event.windows_virtual_key_code = Some(code);
        }
        if matches!(kind, DispatchKeyEventType::KeyDown) {
            event.text = Some(text);
        }
        tab.call(&event, soon(deadline), DOING).await?;
    }
    Ok(())
}

/// The name of the key that a character is on, on a keyboard like that of the United States.
fn physical_key(character: char) -> Option<String> {
    match character {
        '\n' => Some("Enter".to_owned()),
        ' ' => Some("Space".to_owned()),
        'a'..='z' | 'A'..='Z' => Some(format!("Key{}", character.to_ascii_uppercase())),
        '0'..='9' => Some(format!("Digit{character}")),
        _ => None,
    }
}

fn soon(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + RECEIVED_WITHIN)
}

impl Input {
    /// Whether the page may be left for another one.
    pub(super) fn may_lead_on(&self) -> bool {
        match self {
            Self::Click(..) => true,
            Self::Keys { text, .. } => text.contains('\n'),
            Self::Hover(..) => false,
        }
    }
}
