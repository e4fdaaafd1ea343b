#include "traces/read_ahead.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/memory.h"

/* In a damaged file SQLite may look a little further than a page goes: its own mappings have
 * OVERREAD bytes behind each. */
enum { WINDOWS = 8, WINDOW_BYTES = 1 << 16, OVERREAD = 256, PAGE_LINK = 4, LOCAL_SPARE = 64 };

static const sqlite3_int64 WHOLE_FILE = -1;
static const char NAME[] = "moebius-read-ahead";

/* A part of the file, in which pages are whole. Pages of it that SQLite holds keep it. */
typedef struct {
    char *bytes; /* [WINDOW_BYTES + OVERREAD], or NULL; behind N there are OVERREAD zeroes */
    sqlite3_int64 from;
    sqlite3_int64 n;
    uint32_t held; /* pages */
    uint64_t used; /* when last */
} Window;

typedef struct ReadAhead {
    sqlite3_file base;
    sqlite3_file *real; /* of the default VFS, behind this */
    Window windows[WINDOWS];
    sqlite3_int64 last;   /* what SQLite asked for */
    sqlite3_int64 wanted; /* bytes of a row that are still to be read; WHOLE_FILE: of all rows */
    uint64_t now;
    char *gathered;              /* [WINDOW_BYTES], or NULL: nothing is gathered */
    sqlite3_int64 gathered_from; /* where these are to be written: */
    int n_gathered;
} ReadFile;

static sqlite3_vfs read_vfs;
static pthread_once_t read_vfs_once = PTHREAD_ONCE_INIT;

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((ReadFile *)file)->real;
}

/* ---- windows ---- */

/* What is not held may have changed. */
static void forget(ReadFile *file)
{
    for (int i = 0; i < WINDOWS; i++)
        if (file->windows[i].held == 0)
            file->windows[i].n = 0;
}

static Window *find_window(ReadFile *file, sqlite3_int64 from, int bytes)
{
    for (int i = 0; i < WINDOWS; i++) {
        Window *window = &file->windows[i];
        if (from >= window->from && from + bytes <= window->from + window->n)
            return window;
    }
    return NULL;
}

/* Of those that are not held the one that was not used for longest; NULL: all are. */
static Window *oldest_window(ReadFile *file)
{
    Window *oldest = NULL;
    for (int i = 0; i < WINDOWS; i++) {
        Window *window = &file->windows[i];
        if (window->held == 0 && (oldest == NULL || window->used < oldest->used))
            oldest = window;
    }
    return oldest;
}

/* Where a window with PAGE, of BYTES, begins and how long it is: of a row that is read in part as
 * many pages as hold what is wanted of it, each after a link to the next; else what is around.
 * Where a row takes several pages, the first of it is in a page with others, at the least an eighth
 * of one (page_size.c): that one is mostly there already. */
static sqlite3_int64 place_window(const ReadFile *file, sqlite3_int64 page, int bytes, int *n)
{
    if (file->wanted == WHOLE_FILE) {
        *n = WINDOW_BYTES;
        return page - page % WINDOW_BYTES;
    }
    sqlite3_int64 most = WINDOW_BYTES / bytes;
    sqlite3_int64 rest = file->wanted - (bytes / 8 - LOCAL_SPARE);
    sqlite3_int64 pages = (rest + bytes - PAGE_LINK - 1) / (bytes - PAGE_LINK);
    pages = pages < 1 ? 1 : pages > most ? most : pages;
    *n = (int)pages * bytes;
    return page;
}

/* Fills WINDOW with N bytes from FROM on, or with those that there are. */
static int fill_window(const ReadFile *file, Window *window, sqlite3_int64 from, int n)
{
    sqlite3_int64 end;
    const sqlite3_io_methods *methods = file->real->pMethods;
    int code = methods->xRead(file->real, window->bytes, n, from);
    if (code == SQLITE_IOERR_SHORT_READ)
        code = methods->xFileSize(file->real, &end);
    else
        end = from + n;
    if (code == SQLITE_OK && end < from + n) {
        n = end > from ? (int)(end - from) : 0;
        code = methods->xRead(file->real, window->bytes, n, from);
    }
    if (code != SQLITE_OK)
        return code;
    memset(window->bytes + n, 0, OVERREAD);
    window->from = from;
    window->n = n;
    return SQLITE_OK;
}

/* Reads what is around PAGE, of BYTES, or follows it; NULL where that fails, which reading the page
 * will tell. */
static Window *read_window(ReadFile *file, sqlite3_int64 page, int bytes)
{
    int n;
    Window *window = oldest_window(file);
    if (window == NULL)
        return NULL;
    if (window->bytes == NULL)
        window->bytes = mem_resize(NULL, WINDOW_BYTES + OVERREAD, 1);
    window->n = 0;
    if (window->bytes == NULL)
        return NULL;
    sqlite3_int64 from = place_window(file, page, bytes, &n);
    if (fill_window(file, window, from, n) != SQLITE_OK || page + bytes > from + window->n)
        return NULL;
    return window;
}

/* ---- writes that are gathered ---- */

/* What fails stays gathered: nobody reads the file as if it had been written. */
static int write_gathered(ReadFile *file)
{
    if (file->n_gathered == 0)
        return SQLITE_OK;
    int code = file->real->pMethods->xWrite(file->real, file->gathered, file->n_gathered,
                                            file->gathered_from);
    if (code == SQLITE_OK)
        file->n_gathered = 0;
    return code;
}

/* Pieces end where windows do, so that the system keeps them in large pages. */
static int gather(ReadFile *file, const void *data, int bytes, sqlite3_int64 from)
{
    sqlite3_int64 end = file->gathered_from + file->n_gathered;
    if (from != end || from % WINDOW_BYTES == 0 || file->n_gathered + bytes > WINDOW_BYTES) {
        int code = write_gathered(file);
        if (code != SQLITE_OK)
            return code;
    }
    if (bytes > WINDOW_BYTES)
        return file->real->pMethods->xWrite(file->real, data, bytes, from);
    if (file->n_gathered == 0)
        file->gathered_from = from;
    memcpy(file->gathered + file->n_gathered, data, (size_t)bytes);
    file->n_gathered += bytes;
    return SQLITE_OK;
}

/* The file behind BASE, as all that was written to it. */
static sqlite3_file *whole(sqlite3_file *base, int *code)
{
    ReadFile *file = (ReadFile *)base;
    *code = write_gathered(file);
    return file->real;
}

/* ---- pages ---- */

/* *PAGE is where BYTES from FROM on are; NULL: SQLite reads them itself. */
static int fetch(sqlite3_file *base, sqlite3_int64 from, int bytes, void **page)
{
    ReadFile *file = (ReadFile *)base;
    int code = write_gathered(file);
    if (code != SQLITE_OK)
        return code;
    sqlite3_int64 distance = from - file->last;
    bool is_near = (distance > -WINDOW_BYTES && distance < WINDOW_BYTES) || file->wanted > 0;
    Window *window = find_window(file, from, bytes);
    if (window == NULL && is_near && bytes <= WINDOW_BYTES)
        window = read_window(file, from, bytes);
    file->last = from;
    if (file->wanted > 0)
        file->wanted -= file->wanted < bytes ? file->wanted : bytes;
    *page = NULL;
    if (window == NULL)
        return SQLITE_OK;
    window->held++;
    window->used = ++file->now;
    *page = window->bytes + (from - window->from);
    return SQLITE_OK;
}

/* By its address alone: where two windows are as far apart in memory as in the file, its place in
 * the file would be right for both. */
static bool lies_in(const Window *window, const void *page)
{
    uintptr_t first = (uintptr_t)window->bytes;
    return window->bytes != NULL && (uintptr_t)page - first < WINDOW_BYTES;
}

/* PAGE is not looked at any more; NULL: all may have changed. */
static int unfetch(sqlite3_file *base, sqlite3_int64 from, void *page)
{
    ReadFile *file = (ReadFile *)base;
    (void)from;
    if (page == NULL)
        forget(file);
    for (int i = 0; page != NULL && i < WINDOWS; i++)
        if (lies_in(&file->windows[i], page))
            file->windows[i].held--;
    return SQLITE_OK;
}

/* ---- what the default VFS does ---- */

static int file_close(sqlite3_file *base)
{
    ReadFile *file = (ReadFile *)base;
    int written = write_gathered(file);
    mem_free(file->gathered);
    for (int i = 0; i < WINDOWS; i++)
        mem_free(file->windows[i].bytes);
    int code = file->real->pMethods->xClose(file->real);
    return written != SQLITE_OK ? written : code;
}

static int file_read(sqlite3_file *base, void *to, int bytes, sqlite3_int64 from)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    return code != SQLITE_OK ? code : file->pMethods->xRead(file, to, bytes, from);
}

static int file_write(sqlite3_file *base, const void *data, int bytes, sqlite3_int64 from)
{
    ReadFile *file = (ReadFile *)base;
    forget(file);
    if (file->gathered != NULL)
        return gather(file, data, bytes, from);
    return file->real->pMethods->xWrite(file->real, data, bytes, from);
}

static int file_truncate(sqlite3_file *base, sqlite3_int64 bytes)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    forget((ReadFile *)base);
    return code != SQLITE_OK ? code : file->pMethods->xTruncate(file, bytes);
}

static int file_sync(sqlite3_file *base, int flags)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    return code != SQLITE_OK ? code : file->pMethods->xSync(file, flags);
}

static int file_size(sqlite3_file *base, sqlite3_int64 *bytes)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    return code != SQLITE_OK ? code : file->pMethods->xFileSize(file, bytes);
}

/* A lock is where a transaction begins, before which others may have written. */
static int file_lock(sqlite3_file *file, int level)
{
    forget((ReadFile *)file);
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int file_unlock(sqlite3_file *base, int level)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    int unlocked = file->pMethods->xUnlock(file, level);
    return code != SQLITE_OK ? code : unlocked;
}

static int file_check_lock(sqlite3_file *file, int *is_reserved)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), is_reserved);
}

/* A commit asks for SQLITE_FCNTL_SYNC, also where nothing is synced, and fails with it. */
static int file_control(sqlite3_file *base, int what, void *argument)
{
    int code;
    sqlite3_file *file = whole(base, &code);
    if (code != SQLITE_OK || what == SQLITE_FCNTL_MMAP_SIZE)
        return code;
    return file->pMethods->xFileControl(file, what, argument);
}

static int file_sector(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int file_device(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shared_map(sqlite3_file *file, int region, int bytes, int extend, void volatile **map)
{
    return real_of(file)->pMethods->xShmMap(real_of(file), region, bytes, extend, map);
}

static int shared_lock(sqlite3_file *file, int offset, int n, int flags)
{
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, n, flags);
}

static void shared_barrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shared_unmap(sqlite3_file *file, int is_deleted)
{
    return real_of(file)->pMethods->xShmUnmap(real_of(file), is_deleted);
}

static const sqlite3_io_methods METHODS = {.iVersion = 3,
                                           .xClose = file_close,
                                           .xRead = file_read,
                                           .xWrite = file_write,
                                           .xTruncate = file_truncate,
                                           .xSync = file_sync,
                                           .xFileSize = file_size,
                                           .xLock = file_lock,
                                           .xUnlock = file_unlock,
                                           .xCheckReservedLock = file_check_lock,
                                           .xFileControl = file_control,
                                           .xSectorSize = file_sector,
                                           .xDeviceCharacteristics = file_device,
                                           .xShmMap = shared_map,
                                           .xShmLock = shared_lock,
                                           .xShmBarrier = shared_barrier,
                                           .xShmUnmap = shared_unmap,
                                           .xFetch = fetch,
                                           .xUnfetch = unfetch};

/* Others than the databases themselves are files of the default VFS. */
static int open_file(sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags, int *given)
{
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    (void)vfs;
    ReadFile *file = (ReadFile *)base;
    if ((flags & SQLITE_OPEN_MAIN_DB) == 0)
        return real->xOpen(real, name, base, flags, given);
    *file = (ReadFile){.real = (sqlite3_file *)(void *)(file + 1), .wanted = WHOLE_FILE};
    int code = real->xOpen(real, name, file->real, flags, given);
    if (code == SQLITE_OK)
        file->base.pMethods = &METHODS;
    else if (file->real->pMethods != NULL)
        file->real->pMethods->xClose(file->real);
    return code;
}

static void register_vfs(void)
{
    const sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    if (real == NULL)
        return;
    read_vfs = *real;
    read_vfs.zName = NAME;
    read_vfs.szOsFile += (int)sizeof(ReadFile);
    read_vfs.xOpen = open_file;
    read_vfs.pNext = NULL;
    sqlite3_vfs_register(&read_vfs, 0);
}

const char *read_ahead_vfs(void)
{
    pthread_once(&read_vfs_once, register_vfs);
    return read_vfs.zName;
}

ReadAhead *read_ahead_of(sqlite3 *db)
{
    sqlite3_file *file = NULL;
    if (sqlite3_file_control(db, "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK ||
        file == NULL || file->pMethods != &METHODS)
        return NULL;
    return (ReadFile *)file;
}

void read_ahead_row(ReadAhead *file, uint64_t bytes)
{
    if (file != NULL)
        file->wanted = bytes < INT32_MAX ? (sqlite3_int64)bytes : INT32_MAX;
}

void read_ahead_all(ReadAhead *file)
{
    if (file != NULL)
        file->wanted = WHOLE_FILE;
}

bool read_ahead_gather_writes(ReadAhead *file)
{
    if (file != NULL && file->gathered == NULL)
        file->gathered = mem_resize(NULL, WINDOW_BYTES, 1);
    return file != NULL && file->gathered != NULL;
}
