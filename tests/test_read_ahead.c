#define _XOPEN_SOURCE 700
#include "tests/support.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "traces/read_ahead.h"

enum { PAGE = 4096, FEW = 20 /* pages, with a part of a window at the end */, OVERREAD = 256 };

typedef struct {
    sqlite3_vfs *vfs;
    sqlite3_file *file;
    const sqlite3_io_methods *methods;
} Opened;

static int byte_of(int page)
{
    return page + 1;
}

static void write_pages(const char *path, int n)
{
    char bytes[PAGE];
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    for (int i = 0; i < n; i++) {
        memset(bytes, byte_of(i), sizeof bytes);
        assert_int_equal(fwrite(bytes, sizeof bytes, 1, stream), 1);
    }
    assert_int_equal(fclose(stream), 0);
}

static Opened open_through(const char *path)
{
    Opened opened = {.vfs = sqlite3_vfs_find(read_ahead_vfs())};
    int given;
    assert_non_null(opened.vfs);
    opened.file = calloc(1, (size_t)opened.vfs->szOsFile);
    assert_non_null(opened.file);
    assert_int_equal(opened.vfs->xOpen(opened.vfs, path, opened.file,
                                       SQLITE_OPEN_READONLY | SQLITE_OPEN_MAIN_DB, &given),
                     SQLITE_OK);
    opened.methods = opened.file->pMethods;
    return opened;
}

static void close_through(Opened *opened)
{
    assert_int_equal(opened->methods->xClose(opened->file), SQLITE_OK);
    free(opened->file);
}

/* Where page NUMBER lies, or NULL. */
static const unsigned char *look_at(const Opened *opened, int number)
{
    void *page;
    assert_int_equal(
        opened->methods->xFetch(opened->file, (sqlite3_int64)number * PAGE, PAGE, &page),
        SQLITE_OK);
    return page;
}

static void leave(const Opened *opened, int number, const unsigned char *page)
{
    opened->methods->xUnfetch(opened->file, (sqlite3_int64)number * PAGE, (void *)(uintptr_t)page);
}

/* SQLite does so in a damaged file; the sanitizers see where it is not allowed to. */
static void behind_a_page_a_little_more_may_be_looked_at(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pages");
    write_pages(path, FEW);
    Opened opened = open_through(path);
    for (int i = 0; i < FEW; i++) {
        const unsigned char *page = look_at(&opened, i);
        assert_non_null(page);
        assert_int_equal(page[0], byte_of(i));
        assert_int_equal(page[PAGE - 1], byte_of(i));
        bool is_last = i % 16 == 15 || i == FEW - 1; /* of its window */
        for (int j = 0; j < OVERREAD; j++)
            assert_int_equal(page[PAGE + j], is_last ? 0 : byte_of(i + 1));
        leave(&opened, i, page);
    }
    close_through(&opened);
}

/* Pages that are held stay as they were, whoever else is looked at and however the file ends. */
static void pages_that_are_held_outlast_the_file(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pages");
    const unsigned char *pages[200];
    write_pages(path, 200);
    Opened opened = open_through(path);
    for (int i = 0; i < 200; i++)
        pages[i] = look_at(&opened, i);
    assert_int_equal(truncate(path, 10 * PAGE + 1), 0);
    int held = 0;
    for (int i = 0; i < 200; i++) {
        if (pages[i] == NULL)
            continue;
        held++;
        assert_int_equal(pages[i][0], byte_of(i));
        assert_int_equal(pages[i][PAGE - 1], byte_of(i));
        leave(&opened, i, pages[i]);
    }
    assert_int_equal(held, 8 * 16); /* all windows */
    assert_int_equal(opened.methods->xUnfetch(opened.file, 0, NULL), SQLITE_OK);
    const unsigned char *whole = look_at(&opened, 9);
    assert_null(whole); /* far from the last one */
    whole = look_at(&opened, 8);
    assert_non_null(whole);
    assert_int_equal(whole[0], byte_of(8));
    leave(&opened, 8, whole);
    assert_null(look_at(&opened, 10)); /* cut off */
    assert_null(look_at(&opened, 11)); /* gone */
    close_through(&opened);
}

enum { MANY = 250, HELD = 6, FILES = 4000, LOOKS = 60 };

typedef struct {
    const unsigned char *bytes; /* NULL: none */
    int number;
} HeldPage;

static void give_back(const Opened *opened, HeldPage *held)
{
    if (held->bytes == NULL)
        return;
    for (int i = 0; i < PAGE; i += 256)
        assert_int_equal(held->bytes[i], byte_of(held->number));
    leave(opened, held->number, held->bytes);
    held->bytes = NULL;
}

/* Some pages are held at a time, each near the one before. */
static void look_around(const Opened *opened, uint64_t *seed)
{
    HeldPage held[HELD] = {0};
    void *between[LOOKS];
    int at = (int)random_below(seed, MANY);
    for (int i = 0; i < LOOKS; i++) {
        HeldPage *own = &held[random_below(seed, HELD)];
        between[i] = malloc(64 * (1 + random_below(seed, 1024)));
        give_back(opened, own);
        at = (at + MANY + (int)random_below(seed, 31) - 15) % MANY;
        *own = (HeldPage){.bytes = look_at(opened, at), .number = at};
    }
    for (int i = 0; i < HELD; i++)
        give_back(opened, &held[i]);
    for (int i = 0; i < LOOKS; i++)
        free(between[i]);
}

/* Blocks of any size lie between windows: two of them may be as far apart as in the file. */
static void pages_that_are_held_stay_wherever_windows_lie(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pages");
    uint64_t seed = 1;
    write_pages(path, MANY);
    for (int i = 0; i < FILES; i++) {
        Opened opened = open_through(path);
        look_around(&opened, &seed);
        close_through(&opened);
    }
}

/* Of a row that is wanted in part the pages come that hold it, wherever it begins, and no others.
 */
static void as_many_pages_are_read_as_hold_what_is_wanted(void **unused)
{
    (void)unused;
    const char *path = scratch_path("pages");
    sqlite3 *db;
    write_pages(path, 200);
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "CREATE TABLE t(a)", NULL, NULL, NULL), SQLITE_OK);
    assert_null(read_ahead_of(db)); /* of the default VFS */
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, read_ahead_vfs()), SQLITE_OK);
    assert_non_null(read_ahead_of(db));
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    write_pages(path, 200);
    Opened opened = open_through(path);
    ReadAhead *file = (ReadAhead *)opened.file;
    const int first[] = {5, 77, 190, 30, 3, 121};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        read_ahead_row(file, 3 * (PAGE - 4) + 400); /* behind links, but what lies with others */
        const unsigned char *page = look_at(&opened, first[i]);
        assert_non_null(page);
        for (int j = 0; j < 3 * PAGE; j++)
            assert_int_equal(page[j], byte_of(first[i] + j / PAGE));
        assert_int_equal(page[3 * PAGE], 0);
        for (int j = 1; j < 3; j++) {
            const unsigned char *next = look_at(&opened, first[i] + j);
            assert_ptr_equal(next, page + j * PAGE);
            leave(&opened, first[i] + j, next);
        }
        read_ahead_row(file, 0);
        const unsigned char *after = look_at(&opened, first[i] + 3);
        assert_int_equal(after[0], byte_of(first[i] + 3));
        assert_int_equal(after[PAGE], 0); /* alone */
        leave(&opened, first[i] + 3, after);
        leave(&opened, first[i], page);
    }
    read_ahead_row(file, 1 << 30);
    const unsigned char *page = look_at(&opened, 195);
    assert_int_equal(page[4 * PAGE], byte_of(199)); /* to the end of the file */
    assert_int_equal(page[5 * PAGE], 0);
    leave(&opened, 195, page);
    read_ahead_all(file);
    page = look_at(&opened, 182);
    assert_int_equal(page[-6 * PAGE], byte_of(176)); /* from a multiple of a window on */
    leave(&opened, 182, page);
    close_through(&opened);
}

enum { PLACES = 60 };

/* Reads, lengths and truncations see all that was written before, whatever is gathered. */
static void gathered_writes_are_what_plain_ones_are(void **unused)
{
    (void)unused;
    static char wanted[PLACES * PAGE];
    char bytes[PAGE];
    int length = 0;
    int given;
    uint64_t seed = 3;
    const char *path = scratch_path("gathered");
    sqlite3_vfs *vfs = sqlite3_vfs_find(read_ahead_vfs());
    sqlite3_file *file = calloc(1, (size_t)vfs->szOsFile);
    assert_non_null(file);
    unlink(path);
    assert_int_equal(vfs->xOpen(vfs, path, file,
                                SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_MAIN_DB,
                                &given),
                     SQLITE_OK);
    assert_true(read_ahead_gather_writes((ReadAhead *)file));
    for (int i = 0, at = 0; i < 20000; i++) {
        at = random_below(&seed, 4) && at < PLACES - 1 ? at + 1 : (int)random_below(&seed, PLACES);
        sqlite3_int64 size;
        if (random_below(&seed, 8) > 0) {
            memset(bytes, (int)random_below(&seed, 256), sizeof bytes);
            memcpy(wanted + at * PAGE, bytes, PAGE);
            length = length > (at + 1) * PAGE ? length : (at + 1) * PAGE;
            assert_int_equal(file->pMethods->xWrite(file, bytes, PAGE, at * PAGE), SQLITE_OK);
        } else if ((at + 1) * PAGE <= length && random_below(&seed, 2)) {
            assert_int_equal(file->pMethods->xRead(file, bytes, PAGE, at * PAGE), SQLITE_OK);
            assert_memory_equal(bytes, wanted + at * PAGE, PAGE);
        } else if (random_below(&seed, 4) > 0) {
            assert_int_equal(file->pMethods->xFileSize(file, &size), SQLITE_OK);
            assert_int_equal(size, length);
        } else if (at * PAGE < length) {
            assert_int_equal(file->pMethods->xTruncate(file, at * PAGE), SQLITE_OK);
            memset(wanted + at * PAGE, 0, sizeof wanted - (size_t)at * PAGE);
            length = at * PAGE;
        }
    }
    assert_int_equal(file->pMethods->xClose(file), SQLITE_OK);
    free(file);
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    for (int i = 0; i < length; i += PAGE) {
        assert_int_equal(fread(bytes, PAGE, 1, stream), 1);
        assert_memory_equal(bytes, wanted + i, PAGE);
    }
    assert_int_equal(fread(bytes, 1, 1, stream), 0);
    fclose(stream);
}

static const char INSERT[] = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                             "WHERE i < 20) INSERT INTO t SELECT randomblob(1000) FROM n";

/* Nothing is synced, and yet a commit tells that what it gathered could not be written. */
static void a_commit_fails_where_gathered_writes_do(void **unused)
{
    (void)unused;
    const char *path = scratch_path("full.db");
    struct rlimit before;
    struct rlimit small = {0};
    sqlite3 *db;
    unlink(path);
    assert_int_equal(
        sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, read_ahead_vfs()),
        SQLITE_OK);
    assert_true(read_ahead_gather_writes(read_ahead_of(db)));
    assert_int_equal(sqlite3_exec(db,
                                  "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                                  "CREATE TABLE t(a)",
                                  NULL, NULL, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, INSERT, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_cur = 6 * PAGE;
    small.rlim_max = before.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int code = sqlite3_exec(db, INSERT, NULL, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_true(code == SQLITE_FULL || code == SQLITE_IOERR);
    sqlite3_close(db);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behind_a_page_a_little_more_may_be_looked_at),
        cmocka_unit_test(pages_that_are_held_outlast_the_file),
        cmocka_unit_test(pages_that_are_held_stay_wherever_windows_lie),
        cmocka_unit_test(gathered_writes_are_what_plain_ones_are),
        cmocka_unit_test(a_commit_fails_where_gathered_writes_do),
        cmocka_unit_test(as_many_pages_are_read_as_hold_what_is_wanted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
