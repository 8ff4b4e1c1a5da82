//! What crosses the C boundary, and the net that catches panics there.

use std::any::Any;
use std::ffi::{c_char, CString};
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::sync::Once;

#[repr(C)]
pub struct OptiqText {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct OptiqTokens {
    data: *mut u32,
    size: usize,
}

impl OptiqText {
    pub fn new(text: String) -> Self {
        let (data, size) = leak(text.into_bytes());
        Self { data, size }
    }

    /// # Safety
    /// `self` was made by `new`, and is freed once.
    pub unsafe fn free(self) {
        reclaim(self.data, self.size);
    }
}

impl OptiqTokens {
    pub fn new(ids: Vec<u32>) -> Self {
        let (data, size) = leak(ids);
        Self { data, size }
    }

    /// # Safety
    /// `self` was made by `new`, and is freed once.
    pub unsafe fn free(self) {
        reclaim(self.data, self.size);
    }
}

fn leak<T>(items: Vec<T>) -> (*mut T, usize) {
    let size = items.len();
    (Box::into_raw(items.into_boxed_slice()).cast(), size)
}

unsafe fn reclaim<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, size)));
    }
}

/// The items at `data`; C may pass null for none.
///
/// # Safety
/// `data` points to `size` items that outlive the result, or `size` is 0.
pub unsafe fn bytes_of<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// # Safety
/// As bytes_of.
pub unsafe fn text_of<'a>(data: *const u8, size: usize) -> Result<&'a str, String> {
    std::str::from_utf8(bytes_of(data, size))
        .map_err(|error| format!("not valid UTF-8 at byte {}", error.valid_up_to()))
}

/// Runs `body`; null for success, else the error or the panic as a message that C owns.
pub fn guarded(body: impl FnOnce() -> Result<(), String>) -> *mut c_char {
    silence_panics();
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => std::ptr::null_mut(),
        Ok(Err(message)) => to_c(message),
        Err(panic) => to_c(format!("internal failure: {}", panic_message(panic.as_ref()))),
    }
}

/// A library does not print. (The hook is that of this crate's own copy of the Rust runtime.)
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| set_hook(Box::new(|_| {})));
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown panic")
}

fn to_c(message: String) -> *mut c_char {
    let clean: Vec<u8> = message.into_bytes().into_iter().filter(|byte| *byte != 0).collect();
    CString::new(clean).unwrap_or_default().into_raw()
}
