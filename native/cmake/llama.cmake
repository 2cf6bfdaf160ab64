# Gives the target `llama`. Looked for, in this order, until it is found:
#
#   1. a checkout of llama.cpp, built along:                 -DLLAMA_CPP_DIR=path/to/llama.cpp
#   2. site-packages with llama-cpp-python's wheel in it:    -DLLAMA_WHEEL_DIR=path/to/site-packages
#   3. an installed llama.cpp, by find_package(llama):       -DCMAKE_PREFIX_PATH=prefix, or where CMake looks by itself
#   4. the wheel of the Python that is found:                -DPython3_EXECUTABLE=.venv/bin/python, an active virtual
#                                                            environment, or ../.venv of this repository
#
# A wheel has llama.cpp's headers in include/ and its libraries in llama_cpp/lib.
set(LLAMA_CPP_DIR "" CACHE PATH "A checkout of llama.cpp to build along")
set(LLAMA_WHEEL_DIR "" CACHE PATH "The site-packages folder that has llama-cpp-python's wheel")

function(eft_llama_of_wheel folder)
  find_library(EFT_LLAMA_LIBRARY llama PATHS ${folder}/llama_cpp/lib NO_DEFAULT_PATH NO_CACHE)
  find_library(EFT_GGML_LIBRARY ggml PATHS ${folder}/llama_cpp/lib NO_DEFAULT_PATH NO_CACHE)
  find_library(EFT_GGML_BASE_LIBRARY ggml-base PATHS ${folder}/llama_cpp/lib NO_DEFAULT_PATH NO_CACHE)
  if(NOT EFT_LLAMA_LIBRARY OR NOT EXISTS ${folder}/include/llama.h)
    return()
  endif()
  add_library(llama INTERFACE IMPORTED GLOBAL)
  target_include_directories(llama SYSTEM INTERFACE ${folder}/include)
  target_link_libraries(llama INTERFACE ${EFT_LLAMA_LIBRARY} ${EFT_GGML_LIBRARY} ${EFT_GGML_BASE_LIBRARY})
  message(STATUS "llama.cpp of the Python wheel in ${folder}")
endfunction()

if(LLAMA_CPP_DIR)
  foreach(part COMMON TOOLS EXAMPLES TESTS SERVER)
    set(LLAMA_BUILD_${part} OFF CACHE BOOL "" FORCE)
  endforeach()
  add_subdirectory(${LLAMA_CPP_DIR} llama.cpp EXCLUDE_FROM_ALL)
  message(STATUS "llama.cpp of the checkout ${LLAMA_CPP_DIR}")
elseif(LLAMA_WHEEL_DIR)
  eft_llama_of_wheel(${LLAMA_WHEEL_DIR})
  if(NOT TARGET llama)
    message(FATAL_ERROR "LLAMA_WHEEL_DIR: no include/llama.h and llama_cpp/lib in ${LLAMA_WHEEL_DIR}")
  endif()
else()
  find_package(llama CONFIG QUIET)
  if(llama_FOUND)
    message(STATUS "llama.cpp as installed: ${llama_DIR}")
  else()
    if(NOT Python3_EXECUTABLE AND NOT DEFINED ENV{VIRTUAL_ENV} AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/../.venv/bin/python)
      set(Python3_EXECUTABLE ${CMAKE_CURRENT_SOURCE_DIR}/../.venv/bin/python)
    endif()
    set(Python3_FIND_VIRTUALENV FIRST)
    find_package(Python3 COMPONENTS Interpreter QUIET)
    if(Python3_Interpreter_FOUND)
      # find_spec does not import the package, which would load the library.
      execute_process(
        COMMAND ${Python3_EXECUTABLE} -c
          "import importlib.util as u, os; print(os.path.dirname(os.path.dirname(u.find_spec('llama_cpp').origin)), end='')"
        OUTPUT_VARIABLE site_packages RESULT_VARIABLE missing ERROR_QUIET)
      if(NOT missing)
        eft_llama_of_wheel(${site_packages})
      endif()
    endif()
  endif()
endif()
if(NOT TARGET llama)
  message(WARNING "llama.cpp was not found: eft_sampler and eft-chat are left out. native/cmake/llama.cmake says how to name it.")
endif()
